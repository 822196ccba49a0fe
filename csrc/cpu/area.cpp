// Resample by area: every output pixel is the weighted mean of the pixels under it.
//
// The source is a rectangle of equal tiles, read where they lie: nothing is assembled first.
// All arithmetic is on whole numbers of 16 bits, so that every machine gives the same bits:
// weights are in 1/65536, what lies between the two passes in 1/256 of a grey level. The caller
// (napari_2dmamba/features/resample.py) holds the definition, and checks all sizes.
#include <cstdint>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

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
#define AREA_INLINE inline __attribute__((always_inline))

// More rows than this under one output row are for the caller to refuse.
constexpr int64_t MAX_TAPS = 64;

AREA_EXPORT int area_version() { return 4; }

namespace {

typedef uint16_t Lanes __attribute__((vector_size(16)));

// The upper half of each product, lane by lane.
AREA_INLINE Lanes high_product(Lanes a, Lanes b) {
#ifdef __SSE2__
  return reinterpret_cast<Lanes>(
      _mm_mulhi_epu16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  typedef uint32_t Wide __attribute__((vector_size(32)));
  const Wide product = __builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide);
  return __builtin_convertvector(product >> 16, Lanes);
#endif
}

// The last three of six lanes onto the first three; only those three count afterwards.
AREA_INLINE Lanes folded(Lanes six) {
#ifdef __SSE2__
  return six + reinterpret_cast<Lanes>(_mm_srli_si128(reinterpret_cast<__m128i>(six), 6));
#else
  return Lanes{static_cast<uint16_t>(six[0] + six[3]), static_cast<uint16_t>(six[1] + six[4]),
               static_cast<uint16_t>(six[2] + six[5])};
#endif
}

// Compilers turn this into one multiplication of 16-bit lanes.
AREA_INLINE uint16_t part(uint8_t value, uint16_t weight) {
  return static_cast<uint16_t>((static_cast<uint32_t>(static_cast<uint16_t>(value << 8)) * weight) >> 16);
}

// sum[c] = start + weights[0] * rows[0][c] + ... over TAPS rows; what is there if not FIRST.
template <int TAPS, bool FIRST>
AREA_INLINE void add_rows(const uint8_t* const* rows, const uint16_t* weights, uint16_t start,
                          int64_t count, uint16_t* __restrict sum) {
  const uint8_t* __restrict r0 = rows[0];
  const uint8_t* __restrict r1 = rows[TAPS > 1 ? 1 : 0];
  const uint8_t* __restrict r2 = rows[TAPS > 2 ? 2 : 0];
  const uint16_t w0 = weights[0], w1 = weights[TAPS > 1 ? 1 : 0], w2 = weights[TAPS > 2 ? 2 : 0];
  for (int64_t c = 0; c < count; ++c) {
    uint16_t value = FIRST ? start : sum[c];
    value += part(r0[c], w0);
    if (TAPS > 1) value += part(r1[c], w1);
    if (TAPS > 2) value += part(r2[c], w2);
    sum[c] = value;
  }
}

AREA_INLINE void mix_rows(const uint8_t* const* rows, const uint16_t* weights, int64_t taps,
                          uint16_t start, int64_t count, uint16_t* sum) {
  switch (taps) {
    case 1: return add_rows<1, true>(rows, weights, start, count, sum);
    case 2: return add_rows<2, true>(rows, weights, start, count, sum);
  }
  add_rows<3, true>(rows, weights, start, count, sum);
  int64_t k = 3;
  for (; k + 3 <= taps; k += 3) add_rows<3, false>(rows + k, weights + k, 0, count, sum);
  for (; k < taps; ++k) add_rows<1, false>(rows + k, weights + k, 0, count, sum);
}

// Two pixels at a time, six lanes of eight; PAIRS 0: as many as `pairs` says. Four output pixels
// are under way together. Reads eight lanes from the first pixel of a pair on; writes
// 3 * size + 1.
template <int PAIRS>
AREA_INLINE void mix_columns(const uint16_t* row, const int32_t* first, const uint16_t* lanes,
                             int64_t pairs, uint16_t start, int64_t size, uint16_t* line) {
  const int64_t n = PAIRS ? PAIRS : pairs;
  const Lanes begin = {start, start, start};
  const auto pixel = [&](int64_t j) __attribute__((always_inline)) {
    const uint16_t* pixels = row + 3 * static_cast<int64_t>(first[j]);
    const uint16_t* lane = lanes + 8 * n * j;
    Lanes sum = begin;
    for (int64_t k = 0; k < n; ++k) {
      Lanes two, weights;
      __builtin_memcpy(&two, pixels + 6 * k, sizeof two);
      __builtin_memcpy(&weights, lane + 8 * k, sizeof weights);
      sum += high_product(two, weights);
    }
    return folded(sum);
  };
  int64_t j = 0;
  for (; j + 4 <= size; j += 4) {
    const Lanes a = pixel(j), b = pixel(j + 1), c = pixel(j + 2), d = pixel(j + 3);
    __builtin_memcpy(line + 3 * j, &a, 8);  // the fourth lane is the next pixel's first
    __builtin_memcpy(line + 3 * j + 3, &b, 8);
    __builtin_memcpy(line + 3 * j + 6, &c, 8);
    __builtin_memcpy(line + 3 * j + 9, &d, 8);
  }
  for (; j < size; ++j) {
    const Lanes a = pixel(j);
    __builtin_memcpy(line + 3 * j, &a, 8);
  }
}

}  // namespace

// What one axis of the output is made of; see AreaWeights in resample.py.
struct Axis {
  const int32_t* first;     // (size,) first source pixel of each output pixel
  const uint16_t* weights;  // along y (size, taps); along x (size, (taps + 1) / 2, 8)
  int64_t taps;
};

// tiles          row by row, each tile_height x tile_width x 3 bytes; those that no pixel asked
//                for is made of are not touched
// y_from, y_to   rows of the output that are made
// left, right    source columns [left, right) that any pixel is made of
// row            scratch, 3 * tile_columns * tile_width + 6 * x->taps + 8
// line           scratch, 3 * size + 1
// out            size x size x 3 bytes
// Returns 0, or 1 and does nothing where sizes cannot be meant.
AREA_EXPORT AREA_CLONES int area_resample(const uint8_t* const* tiles, int64_t tile_columns,
                                           int64_t tile_height, int64_t tile_width, const Axis* y,
                                           const Axis* x, int64_t y_from, int64_t y_to,
                                           int64_t left, int64_t right, int64_t size,
                                           uint16_t* row, uint16_t* line, uint8_t* out) {
  if (tiles == nullptr || y == nullptr || x == nullptr || row == nullptr || line == nullptr ||
      out == nullptr || tile_columns < 1 || tile_height < 1 || tile_width < 1 || y->taps < 1 ||
      y->taps > MAX_TAPS || x->taps < 1 || x->taps > MAX_TAPS || y_from < 0 || y_to > size ||
      left < 0 || right > tile_columns * tile_width || left > right)
    return 1;
  for (int64_t j = 0; j < size; ++j)
    if (x->first[j] < left || x->first[j] >= right) return 1;
  for (int64_t i = y_from; i < y_to; ++i)
    if (y->first[i] < 0) return 1;
  const uint8_t* rows[MAX_TAPS];
  // Products are cut off, half a unit too low on average; at the end 128 rounds to nearest
  const uint16_t y_start = static_cast<uint16_t>(y->taps / 2);
  const uint16_t x_start = static_cast<uint16_t>(x->taps / 2 + 128);
  const int64_t pairs = (x->taps + 1) / 2;
  for (int64_t i = y_from; i < y_to; ++i) {
    const uint16_t* weights = y->weights + i * y->taps;
    int64_t taps = y->taps;
    while (taps > 1 && weights[taps - 1] == 0) --taps;  // they may lie beyond the tiles
    for (int64_t column = left / tile_width; column * tile_width < right; ++column) {
      const int64_t first = column * tile_width < left ? left - column * tile_width : 0;
      const int64_t last = right - column * tile_width < tile_width ? right - column * tile_width
                                                                    : tile_width;
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t at = y->first[i] + k;
        rows[k] = tiles[at / tile_height * tile_columns + column] +
                  3 * (at % tile_height * tile_width + first);
      }
      mix_rows(rows, weights, taps, y_start, 3 * (last - first),
               row + 3 * (column * tile_width + first));
    }
    switch (pairs) {
      case 1: mix_columns<1>(row, x->first, x->weights, 1, x_start, size, line); break;
      case 2: mix_columns<2>(row, x->first, x->weights, 2, x_start, size, line); break;
      case 3: mix_columns<3>(row, x->first, x->weights, 3, x_start, size, line); break;
      default: mix_columns<0>(row, x->first, x->weights, pairs, x_start, size, line);
    }
    uint8_t* __restrict bytes = out + 3 * size * i;
    for (int64_t c = 0; c < 3 * size; ++c) bytes[c] = static_cast<uint8_t>(line[c] >> 8);
  }
  return 0;
}
