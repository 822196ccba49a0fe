// Resample by area: every output pixel is the weighted mean of the pixels under it.
//
// The source is a rectangle of equal tiles, read where they lie: nothing is assembled first.
// Sums run in the order of the taps and without fused multiply-add, so that every machine
// gives the same bits. The caller (napari_2dmamba/features/resample.py) checks all sizes.
#include <cstdint>

#ifdef _WIN32
#define AREA_EXPORT extern "C" __declspec(dllexport)
#else
#define AREA_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// One source, compiled for each instruction set where the toolchain can pick at load time.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define AREA_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define AREA_CLONES
#endif

typedef float Pixel __attribute__((vector_size(16)));
typedef int32_t Whole __attribute__((vector_size(16)));

AREA_EXPORT int area_version() { return 1; }

// tiles          row by row, each tile_height x tile_width x 3 bytes
// *_index        (size, taps) pixel of each tap, counted from the first tile's corner
// *_weights      (size, taps)
// row            scratch, 3 * (tile_columns * tile_width) + 4 floats
// out            size x size x 3 bytes
AREA_EXPORT AREA_CLONES void area_resample(
    const uint8_t* const* tiles, int64_t tile_columns, int64_t tile_height, int64_t tile_width,
    const int32_t* y_index, const float* y_weights, int64_t y_taps, const int32_t* x_index,
    const float* x_weights, int64_t x_taps, int64_t size, float* row, uint8_t* out) {
  const int64_t bytes = 3 * tile_width;
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t k = 0; k < y_taps; ++k) {
      const float weight = y_weights[i * y_taps + k];
      if (k > 0 && weight == 0.0f) continue;
      const int64_t y = y_index[i * y_taps + k];
      const uint8_t* const* tile_row = tiles + y / tile_height * tile_columns;
      const int64_t offset = y % tile_height * bytes;
      for (int64_t column = 0; column < tile_columns; ++column) {
        const uint8_t* __restrict source = tile_row[column] + offset;
        float* __restrict sum = row + column * bytes;
        if (k == 0) {
          for (int64_t c = 0; c < bytes; ++c) sum[c] = weight * source[c];
        } else {
          for (int64_t c = 0; c < bytes; ++c) sum[c] += weight * source[c];
        }
      }
    }
    for (int64_t j = 0; j < size; ++j) {
      const int32_t* index = x_index + j * x_taps;
      const float* weights = x_weights + j * x_taps;
      Pixel sum = {};
      for (int64_t k = 0; k < x_taps; ++k) {
        Pixel pixel;
        __builtin_memcpy(&pixel, row + 3 * index[k], sizeof pixel);
        sum += weights[k] * pixel;
      }
      sum += 0.5f;
      const Whole whole = __builtin_convertvector(sum, Whole);
      for (int c = 0; c < 3; ++c) *out++ = static_cast<uint8_t>(whole[c]);
    }
  }
}
