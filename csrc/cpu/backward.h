// The backward scan: states again from the edges of tiles, then gradients from the lower right.
//
//     of_h[i, j]      = C * grad + a[i+1, j] * of_h[i+1, j]
//     of_across[i, j] = of_h[i, j] + a[i, j+1] * of_across[i, j+1]
//
// A tile is done for a few states at a time: what is kept of them fits the first-level cache, and
// what goes from cell to cell along a row stays in registers.
#pragma once
#include "forward.h"

namespace {

template <int kCount, bool kFull>
void scan_edges(const Block<kCount, kFull>& b, float* column, const Edges& edges) {
    const Scan2dProblem& p = b.p;
    const int64_t size = p.width * b.count * kLanes;
    memset(column, 0, sizeof(float) * size);
    memset(edges.left, 0, sizeof(float) * p.height * b.count * kLanes);
    static_assert(kBand % kRowsAtOnce == 0, "a band begins where rows scanned at once begin");
    int64_t row = 0;
    for (; row < p.height; row += kRowsAtOnce) {
        if (row % kBand == 0) memcpy(edges.top + row / kBand * size, column, sizeof(float) * size);
        if (row + kRowsAtOnce <= p.height)
            scan_rows<kCount, kFull, kRowsAtOnce, true>(b, row, column, nullptr, edges);
        else
            for (int64_t r = row; r < p.height; ++r)
                scan_rows<kCount, kFull, 1, true>(b, r, column, nullptr, edges);
    }
}

// Where a tile is, and what its cells need besides their states.
struct Tile {
    int64_t row, column;
    int rows, columns;
    vfloat x[kBand][kPanel], dt[kBand][kPanel];
    vfloat slope[kBand][kPanel];  // of softplus
    vfloat gate[kBand][kPanel];   // sigmoid of z
    vfloat y[kBand][kPanel];      // before the gate, of this chunk of states
    vfloat grad[kBand][kPanel];   // of y before the gate
    vfloat of_log_a[kBand][kPanel];  // gradient of dt, as far as it goes through the decay
    vfloat of_u[kBand][kPanel];      // gradient of dt * x
    bool alike[kBand][kPanel];       // whether dt is that of the cell to the left, in the tile
};
static_assert(kPanel % kFour == 0, "rows of a tile are whole runs");

// What enters a tile, of all states.
struct Around {
    const float* top;   // h of the row above
    const float* left;  // across of the column to the left
    float* up;    // a * of_h of the row below; afterwards, of the first row of the tile
    float* back;  // a * of_across of the column to the right; afterwards, of the first column
};

template <int kSome>
struct TileStates {
    vfloat a[kBand][kPanel][kSome];
    vfloat across[kBand][kPanel + 1][kSome];  // first the column left of the tile
    vfloat h[kBand + 1][kPanel][kSome];       // first the row above the tile
};

// The states of a tile again, and the decay that made them: kSome of them from n on.
template <int kSome, int kCount, bool kFull>
SCAN2D_INLINE void states_of_tile(const Block<kCount, kFull>& b, int n, const Around& around,
                                  Tile& tile, TileStates<kSome>& to) {
    // Copies: for all the compiler knows, what is stored below could change the originals.
    const int64_t width = b.p.width, B_cell = b.p.B_cell, C_cell = b.p.C_cell;
    const int64_t step = int64_t(b.count) * kLanes;
    const float *const all_B = b.B + n, *const all_C = b.C + n;
    const int columns = tile.columns;
    vfloat rate[kSome];
    for (int s = 0; s < kSome; ++s) rate[s] = b.rate[n + s];
    for (int c = 0; c < columns; ++c)
        for (int s = 0; s < kSome; ++s) to.h[0][c][s] = load(around.top + c * step + (n + s) * kLanes);
    for (int r = 0; r < tile.rows; ++r) {
        vfloat across[kSome];
        for (int s = 0; s < kSome; ++s)
            to.across[r][0][s] = across[s] = load(around.left + r * step + (n + s) * kLanes);
        const int64_t cell0 = (tile.row + r) * width + tile.column;
        for (int c = 0; c < columns; ++c) {
            const float* const B = all_B + (cell0 + c) * B_cell;
            const float* const C = all_C + (cell0 + c) * C_cell;
            const vfloat dt = tile.dt[r][c], u = dt * tile.x[r][c];
            vfloat a[kSome], h[kSome], y = tile.y[r][c];
            if (tile.alike[r][c]) {
#pragma GCC unroll 4
                for (int s = 0; s < kSome; ++s) a[s] = to.a[r][c - 1][s];
            } else {
#pragma GCC unroll 4
                for (int s = 0; s < kSome; ++s) a[s] = dt * rate[s];
                exp2_all<kSome>(a);
            }
#pragma GCC unroll 4
            for (int s = 0; s < kSome; ++s) {
                across[s] = a[s] * across[s] + u * splat(B[s]);
                h[s] = a[s] * to.h[r][c][s] + across[s];
                y += h[s] * splat(C[s]);
            }
#pragma GCC unroll 4
            for (int s = 0; s < kSome; ++s) {
                to.a[r][c][s] = a[s];
                to.across[r][c + 1][s] = across[s];
                to.h[r + 1][c][s] = h[s];
            }
            tile.y[r][c] = y;
        }
    }
}

// Gradients of a tile, from its lower right corner: kSome states from n on.
template <int kSome, int kCount, bool kFull>
SCAN2D_INLINE void gradients_of_tile(const Block<kCount, kFull>& b, int n, const Around& around,
                                     const Scan2dShares& shares, Tile& tile,
                                     const TileStates<kSome>& from, vfloat* grad_A) {
    // Copies: for all the compiler knows, what is stored below could change the originals.
    const int64_t width = b.p.width, B_cell = b.p.B_cell, C_cell = b.p.C_cell;
    const int64_t states = b.p.states, step = int64_t(b.count) * kLanes;
    const float *const all_B = b.B + n, *const all_C = b.C + n;
    const int columns = tile.columns;
    const vint alive = b.alive();
    float* const sums_B = shares.B + b.part.state + n;
    float* const sums_C = shares.C + b.part.state + n;
    const bool add = shares.add;
    float* const up = around.up + n * kLanes;
    vfloat rate[kSome], of_rate[kSome];
    for (int s = 0; s < kSome; ++s) {
        rate[s] = b.rate[n + s];
        of_rate[s] = vfloat{};
    }
    for (int r = tile.rows - 1; r >= 0; --r) {
        const int64_t cell0 = (tile.row + r) * width + tile.column;
        vfloat right[kSome];
        for (int s = 0; s < kSome; ++s) right[s] = load(around.back + r * step + (n + s) * kLanes);
        for (int c = columns - 1; c >= 0; --c) {
            const int64_t cell = cell0 + c;
            const float *const B = all_B + cell * B_cell, *const C = all_C + cell * C_cell;
            float* const to_up = up + c * step;
            const vfloat dt = tile.dt[r][c], u = dt * tile.x[r][c], grad = tile.grad[r][c];
            vfloat of_log_a = tile.of_log_a[r][c], of_u = tile.of_u[r][c];
            vfloat up_next[kSome], for_B[4]{}, for_C[4]{};
#pragma GCC unroll 4
            for (int s = 0; s < kSome; ++s) {
                const vfloat a = from.a[r][c][s];
                const vfloat of_h = load(to_up + s * kLanes) + grad * splat(C[s]);
                const vfloat of_across = right[s] + of_h;
                up_next[s] = a * of_h;
                right[s] = a * of_across;
                const vfloat of_this = right[s] * from.across[r][c][s] + up_next[s] * from.h[r][c][s];
                of_log_a += of_this * rate[s];
                of_rate[s] += of_this * dt;
                of_u += of_across * splat(B[s]);
                for_B[s] = of_across * u;
                for_C[s] = from.h[r + 1][c][s] * grad;
                if (!kFull) {
                    for_B[s] = alive ? for_B[s] : vfloat{};
                    for_C[s] = alive ? for_C[s] : vfloat{};
                }
            }
            for (int s = 0; s < kSome; ++s) store(to_up + s * kLanes, up_next[s]);
            tile.of_log_a[r][c] = of_log_a;
            tile.of_u[r][c] = of_u;
            put_sums<kSome>(for_B, sums_B + cell * states, add);
            put_sums<kSome>(for_C, sums_C + cell * states, add);
        }
        for (int s = 0; s < kSome; ++s) store(around.back + r * step + (n + s) * kLanes, right[s]);
    }
    for (int s = 0; s < kSome; ++s) grad_A[n + s] = of_rate[s];
}

template <int kSome, int kCount, bool kFull>
SCAN2D_NOINLINE void scan_tile(const Block<kCount, kFull>& b, int n, const Around& around,
                               const Scan2dShares& shares, Tile& tile, void* scratch,
                               vfloat* grad_A) {
    TileStates<kSome>& states = *static_cast<TileStates<kSome>*>(scratch);
    states_of_tile(b, n, around, tile, states);
    gradients_of_tile(b, n, around, shares, tile, states, grad_A);
}

// What the cells of a tile are read for once, whatever the number of states.
template <int kCount, bool kFull>
SCAN2D_INLINE void read_tile(const Block<kCount, kFull>& b, const float* grad_y,
                             const Scan2dGradients& grads, Tile& tile) {
    const Scan2dProblem& p = b.p;
    for (int r = 0; r < tile.rows; ++r) {
        const int64_t cell0 = (tile.row + r) * p.width + tile.column;
        for (int c = 0; c < tile.columns; ++c) {
            const int64_t at = b.out + (cell0 + c) * p.channels;
            tile.x[r][c] = b.load_x(cell0 + c);
            tile.dt[r][c] = b.load_raw_dt(cell0 + c);
            tile.grad[r][c] = load_channels<kFull>(grad_y + at, b.lanes);
            tile.y[r][c] = b.part.first && p.D ? b.D * tile.x[r][c] : vfloat{};
            tile.of_log_a[r][c] = tile.of_u[r][c] = vfloat{};
            prefetch_to_write(grads.x + at);
            prefetch_to_write(grads.dt + at);
            if (b.z) prefetch_to_write(grads.z + at);
            // What is read next: the row below or, of the last, the panel to the left.
            const int64_t next = r + 1 < tile.rows
                                     ? cell0 + c + p.width
                                     : cell0 + c - (tile.rows - 1) * p.width - kPanel;
            if (next < 0) continue;
            prefetch(b.x + next * p.x_cell);
            prefetch(b.dt + next * p.dt_cell);
            prefetch(grad_y + b.out + next * p.channels);
            if (b.z) prefetch(b.z + next * p.z_cell);
        }
        if (p.dt_softplus) softplus_and_slope_run(tile.dt[r], tile.slope[r], tile.columns);
        for (int c = 1; c < tile.columns; ++c)
            tile.alike[r][c] = all_equal(tile.dt[r][c], tile.dt[r][c - 1]);
        if (!b.z) continue;
        vfloat z[kPanel];
        for (int c = 0; c < tile.columns; ++c) tile.gate[r][c] = z[c] = b.load_z(cell0 + c);
        sigmoid_run(tile.gate[r], tile.columns);
        for (int c = 0; c < tile.columns; ++c) tile.grad[r][c] *= z[c] * tile.gate[r][c];
    }
}

// Writes the gradients that each cell has of its own.
template <int kCount, bool kFull>
SCAN2D_INLINE void write_tile(const Block<kCount, kFull>& b, const float* grad_y,
                              const Scan2dGradients& grads, const Tile& tile, vfloat& grad_D,
                              vfloat& grad_bias) {
    const Scan2dProblem& p = b.p;
    const bool first = b.part.first;
    for (int r = 0; r < tile.rows; ++r)
        for (int c = 0; c < tile.columns; ++c) {
            const int64_t cell = (tile.row + r) * p.width + tile.column + c;
            const int64_t at = b.out + cell * p.channels;
            const vfloat x = tile.x[r][c], grad = tile.grad[r][c];
            if (b.z) {
                const vfloat s = tile.gate[r][c], z = b.load_z(cell);
                const vfloat of_y = load_channels<kFull>(grad_y + at, b.lanes) * tile.y[r][c];
                vfloat of_z = of_y * (s * (splat(1.f) + z * (splat(1.f) - s)));
                if (!first) of_z += load_channels<kFull>(grads.z + at, b.lanes);
                store_channels<kFull>(grads.z + at, of_z, b.lanes);
            }
            vfloat of_x = tile.of_u[r][c] * tile.dt[r][c];
            vfloat of_dt = tile.of_log_a[r][c] * splat(1.f / kLog2E) + tile.of_u[r][c] * x;
            if (p.dt_softplus) of_dt *= tile.slope[r][c];
            grad_D += grad * x;
            grad_bias += of_dt;
            if (!first) {
                of_x += load_channels<kFull>(grads.x + at, b.lanes);
                of_dt += load_channels<kFull>(grads.dt + at, b.lanes);
            } else if (p.D)
                of_x += b.D * grad;
            store_channels<kFull>(grads.x + at, of_x, b.lanes);
            store_channels<kFull>(grads.dt + at, of_dt, b.lanes);
        }
}

// Floats in: the row of states; the same for the gradient going up; across for each row of a
// band going left; the edges; and the states of a tile.
struct BackwardScratch {
    int64_t row, band, top, left, states;

    BackwardScratch(const Scan2dProblem& p, int count)
        : row(p.width * count * kLanes),
          band(int64_t(kBand) * count * kLanes),
          top((p.height + kBand - 1) / kBand * p.width * count * kLanes),
          left((p.width + kPanel - 1) / kPanel * p.height * count * kLanes),
          states(sizeof(TileStates<4>) / sizeof(float)) {}

    int64_t total() const { return 2 * row + band + top + left + states; }
};

template <int kCount, bool kFull>
void backward(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
              const Scan2dShares& shares, float* scratch) {
    const Block<kCount, kFull> b(part);
    const Scan2dProblem& p = b.p;
    const int count = b.count;
    const int64_t step = int64_t(count) * kLanes;  // floats of the states of one cell
    const BackwardScratch sizes(p, count);
    float* const column = scratch;
    float* const up = column + sizes.row;
    float* const back = up + sizes.row;
    const Edges edges{back + sizes.band, back + sizes.band + sizes.top};
    scan_edges(b, column, edges);
    memset(up, 0, sizeof(float) * sizes.row);

    void* const states = edges.left + sizes.left;
    Tile tile;
    memset(&tile, 0, sizeof tile);  // runs of fours read beyond the last column

    for (tile.row = (p.height - 1) / kBand * kBand; tile.row >= 0; tile.row -= kBand) {
        tile.rows = int(p.height - tile.row < kBand ? p.height - tile.row : kBand);
        memset(back, 0, sizeof(float) * sizes.band);
        for (tile.column = (p.width - 1) / kPanel * kPanel; tile.column >= 0;
             tile.column -= kPanel) {
            tile.columns = int(p.width - tile.column < kPanel ? p.width - tile.column : kPanel);
            const Around around{
                edges.top + (tile.row / kBand * p.width + tile.column) * step,
                edges.left + (tile.column / kPanel * p.height + tile.row) * step,
                up + tile.column * step,
                back,
            };
            vfloat grad_A[kCount ? kCount : kStates], grad_D{}, grad_bias{};
            read_tile(b, grad_y, grads, tile);
            const int whole = count / 4 * 4;
            if constexpr (kCount == 0 || kCount >= 4)
                for (int n = 0; n < whole; n += 4)
                    scan_tile<4>(b, n, around, shares, tile, states, grad_A);
            if constexpr (kCount % 4)
                scan_tile<kCount % 4>(b, whole, around, shares, tile, states, grad_A);
            if constexpr (kCount == 0) switch (count - whole) {
                    case 3: scan_tile<3>(b, whole, around, shares, tile, states, grad_A); break;
                    case 2: scan_tile<2>(b, whole, around, shares, tile, states, grad_A); break;
                    case 1: scan_tile<1>(b, whole, around, shares, tile, states, grad_A); break;
                }
            write_tile(b, grad_y, grads, tile, grad_D, grad_bias);
            for (int k = 0; k < b.lanes; ++k) {
                for (int n = 0; n < count; ++n)
                    shares.A[(part.state + n) * kMaxLanes + k] += grad_A[n][k];
                if (part.first) shares.D[k] += grad_D[k];
                shares.dt_bias[k] += grad_bias[k];
            }
        }
    }
}

}  // namespace
