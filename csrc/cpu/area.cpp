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

// More rows than this under one output row are for the caller to refuse.
constexpr int64_t MAX_TAPS = 64;

AREA_EXPORT int area_version() { return 1; }

namespace {

// sum[c] = weights[0] * rows[0][c] + ... over TAPS rows, on top of what is there unless FIRST.
template <int TAPS, bool FIRST>
inline __attribute__((always_inline)) void add_rows(const uint8_t* const* rows, const float* weights,
                                                    int64_t count, float* __restrict sum) {
  const uint8_t* __restrict r0 = rows[0];
  const uint8_t* __restrict r1 = rows[TAPS > 1 ? 1 : 0];
  const uint8_t* __restrict r2 = rows[TAPS > 2 ? 2 : 0];
  const float w0 = weights[0], w1 = weights[TAPS > 1 ? 1 : 0], w2 = weights[TAPS > 2 ? 2 : 0];
  for (int64_t c = 0; c < count; ++c) {
    float value = FIRST ? w0 * r0[c] : sum[c] + w0 * r0[c];
    if (TAPS > 1) value += w1 * r1[c];
    if (TAPS > 2) value += w2 * r2[c];
    sum[c] = value;
  }
}

inline __attribute__((always_inline)) void mix_rows(const uint8_t* const* rows, const float* weights,
                                                    int64_t taps, int64_t count, float* sum) {
  switch (taps) {
    case 1: return add_rows<1, true>(rows, weights, count, sum);
    case 2: return add_rows<2, true>(rows, weights, count, sum);
  }
  add_rows<3, true>(rows, weights, count, sum);
  int64_t k = 3;
  for (; k + 3 <= taps; k += 3) add_rows<3, false>(rows + k, weights + k, count, sum);
  for (; k < taps; ++k) add_rows<1, false>(rows + k, weights + k, count, sum);
}

// TAPS 0: as many as `taps` says. Writes 3 * size + 1 floats.
template <int TAPS>
inline __attribute__((always_inline)) void mix_columns(const float* row, const int32_t* index,
                                                       const float* weights, int64_t taps,
                                                       int64_t size, float* line) {
  const int64_t n = TAPS ? TAPS : taps;
  for (int64_t j = 0; j < size; ++j, index += n, weights += n, line += 3) {
    Pixel sum = {};
    for (int64_t k = 0; k < n; ++k) {
      Pixel pixel;
      __builtin_memcpy(&pixel, row + 3 * index[k], sizeof pixel);
      sum += weights[k] * pixel;
    }
    __builtin_memcpy(line, &sum, sizeof sum);  // the fourth float is the next pixel's first
  }
}

}  // namespace

// tiles          row by row, each tile_height x tile_width x 3 bytes
// *_index        (size, taps) pixel of each tap, counted from the first tile's corner
// *_weights      (size, taps)
// left, right    columns any tap of x_index lies in: [left, right)
// row, line      scratch, 3 * tile_columns * tile_width + 1 and 3 * size + 1 floats
// out            size x size x 3 bytes
AREA_EXPORT AREA_CLONES void area_resample(
    const uint8_t* const* tiles, int64_t tile_columns, int64_t tile_height, int64_t tile_width,
    const int32_t* y_index, const float* y_weights, int64_t y_taps, const int32_t* x_index,
    const float* x_weights, int64_t x_taps, int64_t left, int64_t right, int64_t size, float* row,
    float* line, uint8_t* out) {
  const uint8_t* rows[MAX_TAPS];
  for (int64_t i = 0; i < size; ++i, y_index += y_taps, y_weights += y_taps) {
    int64_t taps = y_taps;
    while (taps > 1 && y_weights[taps - 1] == 0.0f) --taps;
    for (int64_t column = left / tile_width; column * tile_width < right; ++column) {
      const int64_t first = column * tile_width < left ? left - column * tile_width : 0;
      const int64_t last = right - column * tile_width < tile_width ? right - column * tile_width
                                                                    : tile_width;
      for (int64_t k = 0; k < taps; ++k)
        rows[k] = tiles[y_index[k] / tile_height * tile_columns + column] +
                  3 * (y_index[k] % tile_height * tile_width + first);
      mix_rows(rows, y_weights, taps, 3 * (last - first), row + 3 * (column * tile_width + first));
    }
    switch (x_taps) {
      case 2: mix_columns<2>(row, x_index, x_weights, 2, size, line); break;
      case 3: mix_columns<3>(row, x_index, x_weights, 3, size, line); break;
      case 4: mix_columns<4>(row, x_index, x_weights, 4, size, line); break;
      default: mix_columns<0>(row, x_index, x_weights, x_taps, size, line);
    }
    uint8_t* __restrict bytes = out + 3 * size * i;
    for (int64_t c = 0; c < 3 * size; ++c)
      bytes[c] = static_cast<uint8_t>(static_cast<int32_t>(line[c] + 0.5f));
  }
}
