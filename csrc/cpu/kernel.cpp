// The 2D selective scan of a few channels, forward and backward; compiled once per instruction set.
//
//     across[i, j] = a[i, j] * across[i, j-1] + dt * B * x
//     h[i, j]      = a[i, j] * h[i-1, j] + across[i, j]            a = exp(dt * A)
//     y[i, j]      = (sum over states of C * h + D * x) * silu(z)
//
// A lane is a channel. Nothing is kept for each cell and state but what the cache holds: going
// forward one row of h, going back one tile.
#include "lanes.h"
#include "problem.h"

#ifndef SCAN2D_KERNELS
#error "name the table of kernels with -DSCAN2D_KERNELS=..."
#endif

namespace {

template <int kCount>
SCAN2D_INLINE int count_of(const Scan2dPart& part) {
    return kCount ? kCount : part.count;
}

// Pointers of one part, and what all its cells share.
template <int kCount, bool kFull>
struct Block {
    const Scan2dPart& part;
    const Scan2dProblem& p;
    const int lanes, count;
    const float *x, *dt, *z, *B, *C;
    int64_t out;  // offset of the part in contiguous (batch, height, width, channels)
    vfloat rate[kCount ? kCount : kStates];  // A / log(2)
    vfloat D, bias;

    explicit Block(const Scan2dPart& given)
        : part(given), p(*given.problem), lanes(given.lanes), count(count_of<kCount>(given)) {
        const int64_t cells = p.height * p.width;
        x = p.x + given.batch * cells * p.x_cell + given.channel;
        dt = p.dt + given.batch * cells * p.dt_cell + given.channel;
        z = p.z ? p.z + given.batch * cells * p.z_cell + given.channel : nullptr;
        B = p.B + given.batch * cells * p.B_cell + given.group * p.states + given.state;
        C = p.C + given.batch * cells * p.C_cell + given.group * p.states + given.state;
        out = given.batch * cells * p.channels + given.channel;
        for (int n = 0; n < count; ++n) {
            rate[n] = vfloat{};
            for (int k = 0; k < lanes; ++k)
                rate[n][k] = p.A[(given.channel + k) * p.states + given.state + n] * kLog2E;
        }
        D = p.D ? load_channels<kFull>(p.D + given.channel, lanes) : vfloat{};
        bias = p.dt_bias ? load_channels<kFull>(p.dt_bias + given.channel, lanes) : vfloat{};
    }

    SCAN2D_INLINE vfloat load_x(int64_t cell) const {
        return load_channels<kFull>(x + cell * p.x_cell, lanes);
    }
    SCAN2D_INLINE vfloat load_raw_dt(int64_t cell) const {
        return load_channels<kFull>(dt + cell * p.dt_cell, lanes) + bias;
    }
    SCAN2D_INLINE vfloat load_z(int64_t cell) const {
        return load_channels<kFull>(z + cell * p.z_cell, lanes);
    }
};

// Edges of the tiles, which the backward pass starts from.
struct Edges {
    float* top;   // (bands, width, count, lanes): h above each band of kTile rows
    float* left;  // (panels, height, count, lanes): across, left of each panel of kTile columns
};

constexpr int kStrip = 8;  // columns whose inputs are read, and outputs written, together

SCAN2D_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
SCAN2D_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1); }

// One cell of each of kRows rows, and kSome states from n on. `h` are the states of the row above.
template <int kRows, int kSome, bool kEdges>
SCAN2D_INLINE void scan_states(int n, const vfloat* dt, const vfloat* u, const vfloat* rate,
                               const float* const* B, const float* const* C, vfloat* across,
                               int capacity, float* h, vfloat* sum) {
    vfloat a[kRows * kSome];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < kSome; ++s) a[r * kSome + s] = dt[r] * rate[n + s];
    exp2_all<kRows * kSome>(a);
#pragma GCC unroll 4
    for (int s = 0; s < kSome; ++s) {
        vfloat down = load(h + (n + s) * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            vfloat& left = across[r * capacity + n + s];
            left = a[r * kSome + s] * left + u[r] * splat(B[r][n + s]);
            down = a[r * kSome + s] * down + left;
            if (!kEdges) sum[r] += down * splat(C[r][n + s]);
        }
        store(h + (n + s) * kLanes, down);
    }
}

constexpr int kStatesAtOnce = 2;

// Scans kRows rows at once: the row of states `column` is read and written once for all of them.
// With edges given, only they are written; otherwise y is. What is done once per cell is done for
// a strip of columns together, so that its divisions and cache misses overlap.
template <int kCount, bool kFull, int kRows, bool kEdges>
SCAN2D_INLINE void scan_rows(const Block<kCount, kFull>& b, int64_t row, float* column, float* y,
                             const Edges& edges) {
    const Scan2dProblem& p = b.p;
    const int count = b.count;
    constexpr int kCapacity = kCount ? kCount : kStates;
    vfloat across[kRows][kCapacity];
    vfloat dt[kStrip][kRows], u[kStrip][kRows], sum[kStrip][kRows], gate[kStrip][kRows];
    memset(dt, 0, sizeof dt);
    memset(gate, 0, sizeof gate);
    for (int r = 0; r < kRows; ++r)
        for (int n = 0; n < count; ++n) across[r][n] = vfloat{};
    for (int64_t j0 = 0; j0 < p.width; j0 += kStrip) {
        const int strip = int(p.width - j0 < kStrip ? p.width - j0 : kStrip);
        if (kEdges && j0 > 0)
            for (int r = 0; r < kRows; ++r) {
                static_assert(kStrip == kTile, "a strip begins where a tile does");
                float* to = edges.left + (j0 / kTile * p.height + row + r) * count * kLanes;
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
        for (int c = 0; c < strip; ++c) {
            const float *B[kRows], *C[kRows];
            vfloat dt_here[kRows], u_here[kRows], sum_here[kRows];
            for (int r = 0; r < kRows; ++r) {
                dt_here[r] = dt[c][r];
                u_here[r] = u[c][r];
                sum_here[r] = sum[c][r];
                const int64_t cell = (row + r) * p.width + j0 + c;
                B[r] = b.B + cell * p.B_cell;
                C[r] = b.C + cell * p.C_cell;
                if (j0 + kStrip + c < p.width) {
                    prefetch(b.x + (cell + kStrip) * p.x_cell);
                    prefetch(b.dt + (cell + kStrip) * p.dt_cell);
                    if (!kEdges && b.z) prefetch(b.z + (cell + kStrip) * p.z_cell);
                    if (!kEdges) prefetch_to_write(y + b.out + (cell + kStrip) * p.channels);
                }
            }
            float* h = column + (j0 + c) * count * kLanes;
            int n = 0;
            for (; n + kStatesAtOnce <= count; n += kStatesAtOnce)
                scan_states<kRows, kStatesAtOnce, kEdges>(n, dt_here, u_here, b.rate, B, C, across[0],
                                                          kCapacity, h, sum_here);
            if (kCount % kStatesAtOnce || (!kCount && n < count))
                scan_states<kRows, 1, kEdges>(n, dt_here, u_here, b.rate, B, C, across[0], kCapacity,
                                              h, sum_here);
            for (int r = 0; r < kRows; ++r) sum[c][r] = sum_here[r];
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

// Floats in: the row of states; the same for the gradient going up; across for each row of a
// band going left; the edges; and a, across, h of one tile.
struct BackwardScratch {
    int64_t row, band, top, left, tile_a, tile_across, tile_h;

    BackwardScratch(const Scan2dProblem& p, int count)
        : row(p.width * count * kLanes),
          band(int64_t(kTile) * count * kLanes),
          top((p.height + kTile - 1) / kTile * p.width * count * kLanes),
          left((p.width + kTile - 1) / kTile * p.height * count * kLanes),
          tile_a(int64_t(kTile) * kTile * count * kLanes),
          tile_across(int64_t(kTile) * (kTile + 1) * count * kLanes),
          tile_h(int64_t(kTile + 1) * kTile * count * kLanes) {}

    int64_t total() const { return 2 * row + band + top + left + tile_a + tile_across + tile_h; }
};

template <int kCount, bool kFull>
void scan_edges(const Block<kCount, kFull>& b, float* column, const Edges& edges) {
    const Scan2dProblem& p = b.p;
    const int64_t size = p.width * b.count * kLanes;
    memset(column, 0, sizeof(float) * size);
    memset(edges.left, 0, sizeof(float) * p.height * b.count * kLanes);
    static_assert(kTile % kRowsAtOnce == 0, "a band begins where rows scanned at once begin");
    int64_t row = 0;
    for (; row < p.height; row += kRowsAtOnce) {
        if (row % kTile == 0) memcpy(edges.top + row / kTile * size, column, sizeof(float) * size);
        if (row + kRowsAtOnce <= p.height)
            scan_rows<kCount, kFull, kRowsAtOnce, true>(b, row, column, nullptr, edges);
        else
            for (int64_t r = row; r < p.height; ++r)
                scan_rows<kCount, kFull, 1, true>(b, r, column, nullptr, edges);
    }
}

// What the backward pass needs of each cell of a tile besides its states.
struct TileCells {
    vfloat x[kTile][kTile], dt[kTile][kTile];
    vfloat slope[kTile][kTile];  // of softplus
    vfloat gate[kTile];          // sigmoid of z, of one row
    vfloat grad[kTile][kTile];   // of y before the gate
};
static_assert(kTile % kFour == 0, "rows of a tile are whole runs");

// The states of one cell from those to the left and above, kSome of them from n on, and the decay
// that made them; returns their part of y.
template <int kSome>
SCAN2D_INLINE vfloat cell_states(int n, vfloat dt, vfloat u, const vfloat* rate, const float* B,
                                 const float* C, float* a_to, const float* left, float* across,
                                 const float* above, float* h) {
    vfloat a[kSome], y{};
#pragma GCC unroll 4
    for (int s = 0; s < kSome; ++s) a[s] = dt * rate[n + s];
    exp2_all<kSome>(a);
#pragma GCC unroll 4
    for (int s = 0; s < kSome; ++s) {
        const int at = (n + s) * kLanes;
        const vfloat here = a[s] * load(left + at) + u * splat(B[n + s]);
        const vfloat down = a[s] * load(above + at) + here;
        y += down * splat(C[n + s]);
        store(a_to + at, a[s]);
        store(across + at, here);
        store(h + at, down);
    }
    return y;
}

template <int kCount, bool kFull>
void backward(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
              const Scan2dShares& shares, float* scratch) {
    const Block<kCount, kFull> b(part);
    const Scan2dProblem& p = b.p;
    const int count = b.count;
    const int64_t step = int64_t(count) * kLanes;  // floats of the states of one cell
    const BackwardScratch sizes(p, count);
    float* column = scratch;
    float* up = column + sizes.row;       // a * (gradient of h), of the row below
    float* back = up + sizes.row;         // a * (gradient of across), of the column to the right
    const Edges edges{back + sizes.band, back + sizes.band + sizes.top};
    float* const tile_a = edges.left + sizes.left;
    float* const tile_across = tile_a + sizes.tile_a;
    float* const tile_h = tile_across + sizes.tile_across;
    scan_edges(b, column, edges);
    memset(up, 0, sizeof(float) * sizes.row);

    vfloat A[kCount ? kCount : kStates];
    for (int n = 0; n < count; ++n) A[n] = b.rate[n] * splat(1.f / kLog2E);
    TileCells cells;
    memset(&cells, 0, sizeof cells);  // runs of fours read beyond the last column
    vint alive;
    for (int k = 0; k < kLanes; ++k) alive[k] = k < b.lanes ? -1 : 0;

    for (int64_t band = (p.height - 1) / kTile; band >= 0; --band) {
        const int64_t row0 = band * kTile;
        const int rows = int(p.height - row0 < kTile ? p.height - row0 : kTile);
        memset(back, 0, sizeof(float) * sizes.band);
        for (int64_t panel = (p.width - 1) / kTile; panel >= 0; --panel) {
            const int64_t column0 = panel * kTile;
            const int columns = int(p.width - column0 < kTile ? p.width - column0 : kTile);
            vfloat grad_A[kCount ? kCount : kStates], grad_D{}, grad_bias{};
            for (int n = 0; n < count; ++n) grad_A[n] = vfloat{};

            // The tile's states again, from its edges.
            memcpy(tile_h, edges.top + (band * p.width + column0) * step,
                   sizeof(float) * columns * step);
            for (int r = 0; r < rows; ++r) {
                memcpy(tile_across + r * (kTile + 1) * step,
                       edges.left + (panel * p.height + row0 + r) * step, sizeof(float) * step);
                const int64_t cell0 = (row0 + r) * p.width + column0;
                for (int c = 0; c < columns; ++c) {
                    cells.x[r][c] = b.load_x(cell0 + c);
                    cells.slope[r][c] = cells.dt[r][c] = b.load_raw_dt(cell0 + c);
                    if (b.z) cells.gate[c] = b.load_z(cell0 + c);
                    const int64_t at = b.out + (cell0 + c) * p.channels;
                    cells.grad[r][c] = load_channels<kFull>(grad_y + at, b.lanes);
                    prefetch_to_write(grads.x + at);
                    prefetch_to_write(grads.dt + at);
                    if (b.z) prefetch_to_write(grads.z + at);
                    // What is read next: the row below or, of the last, the panel to the left.
                    const int64_t next = r + 1 < rows ? cell0 + c + p.width
                                                      : cell0 + c - (rows - 1) * p.width - kTile;
                    if (next < 0) continue;
                    prefetch(b.x + next * p.x_cell);
                    prefetch(b.dt + next * p.dt_cell);
                    prefetch(grad_y + b.out + next * p.channels);
                    if (b.z) prefetch(b.z + next * p.z_cell);
                }
                if (p.dt_softplus) {
                    softplus_run(cells.dt[r], columns);
                    sigmoid_run(cells.slope[r], columns);
                }
                if (b.z) sigmoid_run(cells.gate, columns);
                for (int c = 0; c < columns; ++c) {
                    const int64_t cell = cell0 + c;
                    const vfloat x = cells.x[r][c], dt = cells.dt[r][c], u = dt * x;
                    const float* const B = b.B + cell * p.B_cell;
                    const float* const C = b.C + cell * p.C_cell;
                    float* const a_to = tile_a + (r * kTile + c) * step;
                    float* const across = tile_across + (r * (kTile + 1) + c) * step;
                    float* const h = tile_h + (r * kTile + c) * step;
                    vfloat y = part.first && p.D ? b.D * x : vfloat{};
                    int n = 0;
                    for (; n + kFour <= count; n += kFour)
                        y += cell_states<kFour>(n, dt, u, b.rate, B, C, a_to, across, across + step,
                                                h, h + kTile * step);
                    if (kCount % kFour || !kCount)
                        for (; n < count && n < kStates; ++n)
                            y += cell_states<1>(n, dt, u, b.rate, B, C, a_to, across,
                                                across + step, h, h + kTile * step);
                    vfloat grad = cells.grad[r][c];
                    if (b.z) {
                        const vfloat z = b.load_z(cell), s = cells.gate[c];
                        float* const to = grads.z + b.out + cell * p.channels;
                        vfloat grad_z = grad * y * (s * (splat(1.f) + z * (splat(1.f) - s)));
                        if (!part.first) grad_z += load_channels<kFull>(to, b.lanes);
                        store_channels<kFull>(to, grad_z, b.lanes);
                        grad *= z * s;
                    }
                    cells.grad[r][c] = grad;
                    grad_D += grad * x;
                }
            }

            // Gradients, from the lower right corner.
            for (int r = rows - 1; r >= 0; --r)
                for (int c = columns - 1; c >= 0; --c) {
                    const int64_t cell = (row0 + r) * p.width + column0 + c;
                    const vfloat x = cells.x[r][c], dt = cells.dt[r][c], u = dt * x;
                    const vfloat grad = cells.grad[r][c];
                    const float* const B = b.B + cell * p.B_cell;
                    const float* const C = b.C + cell * p.C_cell;
                    const float* const a_at = tile_a + (r * kTile + c) * step;
                    const float* const across = tile_across + (r * (kTile + 1) + c) * step;
                    const float* const h = tile_h + (r * kTile + c) * step;
                    float* const up_at = up + (column0 + c) * step;
                    float* const back_at = back + r * step;
                    vfloat grad_rate{}, grad_u{}, for_B[kStates], for_C[kStates];
                    for (int n = 0; n < count; ++n) {
                        // All loads before the stores: they may look alike to the processor.
                        const int at = n * kLanes;
                        const vfloat a = load(a_at + at), below = load(up_at + at);
                        const vfloat right = load(back_at + at), left = load(across + at);
                        const vfloat above = load(h + at), here = load(h + kTile * step + at);
                        const vfloat of_h = below + grad * splat(C[n]), of_across = right + of_h;
                        const vfloat up_next = a * of_h, back_next = a * of_across;
                        const vfloat of_log_a = back_next * left + up_next * above;
                        grad_rate += of_log_a * A[n];
                        grad_u += of_across * splat(B[n]);
                        grad_A[n] += of_log_a * dt;
                        for_B[n] = of_across * u;
                        for_C[n] = here * grad;
                        store(up_at + at, up_next);
                        store(back_at + at, back_next);
                        if (!kFull) {
                            for_B[n] = alive ? for_B[n] : vfloat{};
                            for_C[n] = alive ? for_C[n] : vfloat{};
                        }
                    }
                    for (int n = count; n % kLanes; ++n) for_B[n] = for_C[n] = vfloat{};
                    for (int n = 0; n < count; n += kLanes) {
                        const vfloat sum_B = sums_of(for_B + n), sum_C = sums_of(for_C + n);
                        float* const to_B = shares.B + cell * p.states + part.state + n;
                        float* const to_C = shares.C + cell * p.states + part.state + n;
                        if (n + kLanes <= count) {
                            store(to_B, load(to_B) + sum_B);
                            store(to_C, load(to_C) + sum_C);
                        } else
                            for (int k = 0; n + k < count; ++k) {
                                to_B[k] += sum_B[k];
                                to_C[k] += sum_C[k];
                            }
                    }
                    vfloat grad_x = grad_u * dt, grad_dt = grad_rate + grad_u * x;
                    if (p.dt_softplus) {
                        const vfloat raw = b.load_raw_dt(cell);
                        grad_dt = raw > splat(20.f) ? grad_dt : grad_dt * cells.slope[r][c];
                    }
                    grad_bias += grad_dt;
                    float* const to_x = grads.x + b.out + cell * p.channels;
                    float* const to_dt = grads.dt + b.out + cell * p.channels;
                    if (part.first) {
                        if (p.D) grad_x += b.D * grad;
                    } else {
                        grad_x += load_channels<kFull>(to_x, b.lanes);
                        grad_dt += load_channels<kFull>(to_dt, b.lanes);
                    }
                    store_channels<kFull>(to_x, grad_x, b.lanes);
                    store_channels<kFull>(to_dt, grad_dt, b.lanes);
                }
            for (int k = 0; k < b.lanes; ++k) {
                for (int n = 0; n < count; ++n)
                    shares.A[(part.state + n) * kMaxLanes + k] += grad_A[n][k];
                if (part.first) shares.D[k] += grad_D[k];
                shares.dt_bias[k] += grad_bias[k];
            }
        }
    }
}

int64_t forward_scratch(const Scan2dProblem& p, int count) { return p.width * count * kLanes; }

int64_t backward_scratch(const Scan2dProblem& p, int count) {
    return BackwardScratch(p, count).total();
}

template <int kCount>
void forward_any(const Scan2dPart& part, float* y, float* scratch) {
    part.lanes == kLanes ? forward<kCount, true>(part, y, scratch)
                         : forward<kCount, false>(part, y, scratch);
}

template <int kCount>
void backward_any(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
                  const Scan2dShares& shares, float* scratch) {
    part.lanes == kLanes ? backward<kCount, true>(part, grad_y, grads, shares, scratch)
                         : backward<kCount, false>(part, grad_y, grads, shares, scratch);
}

void forward_part(const Scan2dPart& part, float* y, float* scratch) {
    switch (part.count) {
        case 1: return forward_any<1>(part, y, scratch);
        case kStates: return forward_any<kStates>(part, y, scratch);
        default: return forward_any<0>(part, y, scratch);
    }
}

void backward_part(const Scan2dPart& part, const float* grad_y, const Scan2dGradients& grads,
                   const Scan2dShares& shares, float* scratch) {
    switch (part.count) {
        case 1: return backward_any<1>(part, grad_y, grads, shares, scratch);
        case kStates: return backward_any<kStates>(part, grad_y, grads, shares, scratch);
        default: return backward_any<0>(part, grad_y, grads, shares, scratch);
    }
}

// The benchmark's floor: nothing but as many exponentials, from registers.
float exponentials(int64_t vectors, float from) {
    vfloat sum{}, start[kFour], t[kFour];
    for (int k = 0; k < kFour; ++k) start[k] = splat(from - 0.1f * k);
    for (int64_t i = 0; i < vectors; i += kFour) {
        for (int k = 0; k < kFour; ++k) t[k] = start[k] -= splat(1e-6f);
        exp2_all<kFour>(t);
        for (int k = 0; k < kFour; ++k) sum += t[k];
    }
    return sum[0];
}

}  // namespace


extern const Scan2dKernels SCAN2D_KERNELS;
const Scan2dKernels SCAN2D_KERNELS{
    SCAN2D_NAME,   kLanes,       forward_scratch, backward_scratch,
    forward_part,  backward_part, exponentials,
};
