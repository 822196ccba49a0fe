// The forward scan: all of it, or only the edges of the tiles that the backward pass starts from.
#pragma once
#include "block.h"

namespace {

// Edges of the tiles, which the backward pass starts from.
struct Edges {
    float* top;   // (bands, width, count, lanes): h above each band of kBand rows
    float* left;  // (panels, height, count, lanes): across, left of each panel of kPanel columns
};

constexpr int kStrip = 4;  // columns whose inputs are read, and outputs written, together

SCAN2D_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
SCAN2D_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1); }

// One cell of each of kRows rows, one above the other.
template <int kRows>
struct Column {
    vfloat dt[kRows], u[kRows], sum[kRows];
    const float *B[kRows], *C[kRows];
};

// Most cells of a slide are empty and alike. Neighbours of one dt have one decay: its exponentials
// are kept for the next cell, or those of the last cell taken again, which changes no bit.
enum class Decay { fresh, kept, again };

// kSome states of a column from n on. `h` are the states of the row above.
template <int kRows, int kSome, int kCapacity, bool kEdges, Decay kDecay>
SCAN2D_INLINE void scan_states(int n, Column<kRows>& cells, const vfloat* rate, vfloat* across,
                               vfloat* decay, float* h) {
    vfloat a[kRows * kSome];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < kSome; ++s)
            a[r * kSome + s] = kDecay == Decay::again ? decay[r * kCapacity + n + s]
                                                      : cells.dt[r] * rate[n + s];
    if (kDecay != Decay::again) exp2_all<kRows * kSome>(a);
    if (kDecay == Decay::kept)
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
            for (int s = 0; s < kSome; ++s) decay[r * kCapacity + n + s] = a[r * kSome + s];
#pragma GCC unroll 4
    for (int s = 0; s < kSome; ++s) {
        vfloat down = load(h + (n + s) * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            vfloat& left = across[r * kCapacity + n + s];
            left = a[r * kSome + s] * left + cells.u[r] * splat(cells.B[r][n + s]);
            down = a[r * kSome + s] * down + left;
            if (!kEdges) cells.sum[r] += down * splat(cells.C[r][n + s]);
        }
        store(h + (n + s) * kLanes, down);
    }
}

constexpr int kStatesAtOnce = 2;

// All states of a column.
template <int kCount, int kRows, bool kEdges, Decay kDecay>
SCAN2D_INLINE void scan_column(int count, Column<kRows>& cells, const vfloat* rate, vfloat* across,
                               vfloat* decay, float* h) {
    constexpr int kCapacity = kCount ? kCount : kStates;
    int n = 0;
    for (; n + kStatesAtOnce <= count; n += kStatesAtOnce)
        scan_states<kRows, kStatesAtOnce, kCapacity, kEdges, kDecay>(n, cells, rate, across, decay, h);
    if (kCount % kStatesAtOnce || (!kCount && n < count))
        scan_states<kRows, 1, kCapacity, kEdges, kDecay>(n, cells, rate, across, decay, h);
}

// Scans kRows rows at once: the row of states `column` is read and written once for all of them.
// With edges given, only they are written; otherwise y is. What is done once per cell is done for
// a strip of columns together, so that its divisions and cache misses overlap.
template <int kCount, bool kFull, int kRows, bool kEdges>
SCAN2D_INLINE void scan_rows(const Block<kCount, kFull>& b, int64_t row, float* column, float* y,
                             const Edges& edges) {
    const Scan2dProblem& p = b.p;
    const int count = b.count;
    constexpr int kCapacity = kCount ? kCount : kStates;
    vfloat across[kRows][kCapacity], decay[kRows][kCapacity];
    vfloat dt[kStrip][kRows], u[kStrip][kRows], sum[kStrip][kRows], gate[kStrip][kRows];
    memset(dt, 0, sizeof dt);
    memset(gate, 0, sizeof gate);
    for (int r = 0; r < kRows; ++r)
        for (int n = 0; n < count; ++n) across[r][n] = vfloat{};
    for (int64_t j0 = 0; j0 < p.width; j0 += kStrip) {
        const int strip = int(p.width - j0 < kStrip ? p.width - j0 : kStrip);
        if (kEdges && j0 > 0 && j0 % kPanel == 0)
            for (int r = 0; r < kRows; ++r) {
                float* to = edges.left + (j0 / kPanel * p.height + row + r) * count * kLanes;
                for (int n = 0; n < count; ++n) store(to + n * kLanes, across[r][n]);
            }
        for (int c = 0; c < strip; ++c)
            for (int r = 0; r < kRows; ++r)
                dt[c][r] = b.load_raw_dt((row + r) * p.width + j0 + c);
        if (p.dt_softplus) softplus_run(dt[0], strip * kRows);
        for (int c = 0; c < strip; ++c)
            for (int r = 0; r < kRows; ++r) {
                const int64_t cell = (row + r) * p.width + j0 + c;
                const vfloat x = b.load_x(cell);
                u[c][r] = dt[c][r] * x;
                if (kEdges) continue;
                sum[c][r] = vfloat{};
                if (!b.part.first)
                    sum[c][r] = load_channels<kFull>(y + b.out + cell * p.channels, b.lanes);
                else if (p.D)
                    sum[c][r] = b.D * x;
            }
        bool alike[kStrip + 1] = {};  // to the cells before; at the end of a strip, not known
        for (int c = 1; c < strip; ++c) {
            alike[c] = true;
            for (int r = 0; r < kRows; ++r) alike[c] &= all_equal(dt[c][r], dt[c - 1][r]);
        }
        for (int c = 0; c < strip; ++c) {
            Column<kRows> cells;
            for (int r = 0; r < kRows; ++r) {
                cells.dt[r] = dt[c][r];
                cells.u[r] = u[c][r];
                cells.sum[r] = sum[c][r];
                const int64_t cell = (row + r) * p.width + j0 + c;
                cells.B[r] = b.B + cell * p.B_cell;
                cells.C[r] = b.C + cell * p.C_cell;
                if (j0 + kStrip + c < p.width) {
                    prefetch(b.x + (cell + kStrip) * p.x_cell);
                    prefetch(b.dt + (cell + kStrip) * p.dt_cell);
                    if (!kEdges && b.z) prefetch(b.z + (cell + kStrip) * p.z_cell);
                    if (!kEdges) prefetch_to_write(y + b.out + (cell + kStrip) * p.channels);
                }
            }
            float* const h = column + (j0 + c) * count * kLanes;
            if (alike[c])
                scan_column<kCount, kRows, kEdges, Decay::again>(count, cells, b.rate, across[0],
                                                                 decay[0], h);
            else if (alike[c + 1])
                scan_column<kCount, kRows, kEdges, Decay::kept>(count, cells, b.rate, across[0],
                                                                decay[0], h);
            else
                scan_column<kCount, kRows, kEdges, Decay::fresh>(count, cells, b.rate, across[0],
                                                                 decay[0], h);
            for (int r = 0; r < kRows; ++r) sum[c][r] = cells.sum[r];
        }
        if (kEdges) continue;
        if (b.part.last && b.z) {
            for (int c = 0; c < strip; ++c)
                for (int r = 0; r < kRows; ++r) {
                    gate[c][r] = b.load_z((row + r) * p.width + j0 + c);
                    sum[c][r] *= gate[c][r];
                }
            sigmoid_run(gate[0], strip * kRows);
            for (int c = 0; c < strip; ++c)
                for (int r = 0; r < kRows; ++r) sum[c][r] *= gate[c][r];
        }
        for (int c = 0; c < strip; ++c)
            for (int r = 0; r < kRows; ++r) {
                const int64_t cell = (row + r) * p.width + j0 + c;
                store_channels<kFull>(y + b.out + cell * p.channels, sum[c][r], b.lanes);
            }
    }
}

constexpr int kRowsAtOnce = 2;

template <int kCount, bool kFull>
void forward(const Scan2dPart& part, float* y, float* scratch) {
    const Block<kCount, kFull> b(part);
    memset(scratch, 0, sizeof(float) * b.p.width * b.count * kLanes);
    int64_t row = 0;
    for (; row + kRowsAtOnce <= b.p.height; row += kRowsAtOnce)
        scan_rows<kCount, kFull, kRowsAtOnce, false>(b, row, scratch, y, Edges{});
    for (; row < b.p.height; ++row)
        scan_rows<kCount, kFull, 1, false>(b, row, scratch, y, Edges{});
}

}  // namespace
