// Forward 2D selective scan: h1 = a h1(left) + dt x B along each row, h = a h(above) + h1 down
// each column, y = sum_n C h + D x, gated by silu(z).
//
// A lane is a channel and keeps all states in registers, so that x, dt, z and y are read and
// written in the channels-last layout of the Linear layers and B and C are shared by a warp.
#include "scan.cuh"

// Row states at the left edge of every strip but the first. Runs before scan_forward when
// strips are computed by different CTAs.
extern "C" __global__ void __launch_bounds__(64) scan_left_edges(const Scan p) {
    SCAN_DYNAMIC_SHARED(shared);
    walk_lines<false>(p, shared);
}

// A CTA computes strips of `strip` = warps * COLUMNS columns from the top row to the bottom
// row. Warp w owns COLUMNS columns of 32 channels, keeps their column states in registers and
// works one row behind warp w - 1, which hands it the row state through shared memory.
// Strip s starts from the left edges that scan_left_edges wrote or, when one CTA does all
// strips (gridDim.x == 1, write_left), from those it wrote itself during strip s - 1.
// Block (32, warps); grid (strips or 1, channel tiles, batch).
extern "C" __global__ void __launch_bounds__(256) scan_forward(const Scan p) {
    SCAN_DYNAMIC_SHARED(shared);
    constexpr int WEIGHTS = COLUMNS * STATES;  // values of B, and of C, that a warp needs for a row
    constexpr int FETCH = (WEIGHTS + 31) / 32;
    const int lane = threadIdx.x, warp = threadIdx.y, warps = blockDim.y;
    const int tiles = ceil_div(p.channels, 32);
    const int g = blockIdx.y / tiles, k = blockIdx.y % tiles * 32 + lane;
    const bool live = k < p.channels;
    const int d_inner = p.groups * p.channels, channel = g * p.channels + k;
    const int strips = ceil_div(p.width, p.strip);
    const int left_edges = ceil_div(p.width, p.spacing) - 1, top_edges = ceil_div(p.height, BLOCK) - 1;
    float* ring = shared;                                      // [warps][2][STATES][32]: row state that enters warp w
    float* stage = ring + warps * 2 * STATES * 32 + warp * 4 * WEIGHTS;  // [2][B, C][COLUMNS][STATES]

    float a2[STATES];
#pragma unroll
    for (int n = 0; n < STATES; ++n)
        a2[n] = live && has_state(p, n) ? p.A[static_cast<index_t>(channel) * p.states + p.first_state + n] * LOG2E : 0.f;
    const float bias = live && p.dt_bias ? p.dt_bias[channel] : 0.f;
    const float skip = live && p.D ? p.D[channel] : 0.f;

    for (int b = blockIdx.z; b < p.batches; b += gridDim.z) {
        for (int strip = blockIdx.x; strip < strips; strip += gridDim.x) {
            const int j0 = strip * p.strip + warp * COLUMNS, j1 = j0 + COLUMNS;
            const bool from_edge = warp == 0 && strip > 0 && live;
            const bool to_edge = p.write_left && live && j1 % p.spacing == 0 && j1 < p.width;
            const auto edge_at = [&](int column) {
                const index_t edge = static_cast<index_t>(b) * left_edges + column / p.spacing - 1;
                return p.left + (edge * p.height * p.states + p.first_state) * d_inner + channel;
            };
            const index_t edge_step = static_cast<index_t>(p.states) * d_inner;
            const float* edge_in = from_edge ? edge_at(j0) : nullptr;
            float* edge_out = to_edge ? edge_at(j1) : nullptr;

            // All of these point at the row that is fetched, or written, next.
            const io_t* x_at = cell_of(p.x, b, 0, j0, g) + k;
            const io_t* dt_at = cell_of(p.dt, b, 0, j0, g) + k;
            const io_t* z_at = p.z.data ? cell_of(p.z, b, 0, j0, g) + k : nullptr;
            const io_t* B_at = cell_of(p.B, b, 0, j0, g) + p.first_state;
            const io_t* C_at = cell_of(p.C, b, 0, j0, g) + p.first_state;
            io_t* y_at = cell_of(p.y, b, 0, j0, g) + k;

            float column[COLUMNS][STATES];
            float x[COLUMNS], dt[COLUMNS], z[COLUMNS];
#pragma unroll
            for (int n = 0; n < STATES; ++n) {
                if (warp == 0) ring[n * 32 + lane] = ring[(STATES + n) * 32 + lane] = 0.f;
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) column[c][n] = 0.f;
            }
            // Step t = -1 only fetches row 0 of warp 0; each warp fetches one row ahead.
            for (int t = -1; t < p.height + warps - 1; ++t) {
                const int i = t - warp, ahead = i + 1;
                const bool fetch = ahead >= 0 && ahead < p.height;
                io_t next_x[COLUMNS], next_dt[COLUMNS], next_z[COLUMNS], next_B[FETCH], next_C[FETCH];
                float next_edge[STATES];
                if (fetch) {
#pragma unroll
                    for (int c = 0; c < COLUMNS; ++c) {
                        if (live && j0 + c < p.width) {
                            next_x[c] = x_at[c * p.x.column];
                            next_dt[c] = dt_at[c * p.dt.column];
                            if (p.z.data) next_z[c] = z_at[c * p.z.column];
                        }
                    }
#pragma unroll
                    for (int f = 0; f < FETCH; ++f) {
                        const int e = f * 32 + lane, c = e / STATES, n = e % STATES;
                        const bool inside = c < COLUMNS && j0 + c < p.width && has_state(p, n);
                        next_B[f] = inside ? B_at[c * p.B.column + n] : narrow(0.f);
                        next_C[f] = inside ? C_at[c * p.C.column + n] : narrow(0.f);
                    }
                    if (from_edge) {
                        const float* in = edge_in;
#pragma unroll
                        for (int n = 0; n < STATES; ++n, in += d_inner) next_edge[n] = has_state(p, n) ? *in : 0.f;
                        edge_in += edge_step;
                    }
                    x_at += p.x.row;
                    dt_at += p.dt.row;
                    if (p.z.data) z_at += p.z.row;
                    B_at += p.B.row;
                    C_at += p.C.row;
                }
                if (i >= 0 && i < p.height) {
                    const float *B = stage + (t & 1) * 2 * WEIGHTS, *C = B + WEIGHTS;
                    float row[STATES];
#pragma unroll
                    for (int n = 0; n < STATES; ++n)
                        row[n] = ring[((warp * 2 + ((t - 1) & 1)) * STATES + n) * 32 + lane];
#pragma unroll
                    for (int c = 0; c < COLUMNS; ++c) {
                        if (j0 + c >= p.width) break;
                        const float inflow = dt[c] * x[c];
                        float y = 0.f;
#pragma unroll
                        for (int n = 0; n < STATES; ++n) {
                            const float a = exp2_fast(dt[c] * a2[n]);
                            row[n] = a * row[n] + inflow * B[c * STATES + n];
                            column[c][n] = a * column[c][n] + row[n];
                            y += column[c][n] * C[c * STATES + n];
                        }
                        if (!live) continue;
                        const index_t cell = (static_cast<index_t>(b) * p.height + i) * p.width + j0 + c;
                        if (!p.first) y += p.sum1[cell * d_inner + channel];
                        if (p.last) {
                            if (p.D) y += skip * x[c];  // not 0 * x, which is NaN for an infinite x
                            if (p.pregate) p.pregate[cell * d_inner + channel] = y;
                            if (p.z.data) y *= silu(z[c]);
                            y_at[c * p.y.column] = narrow(y);
                        } else {
                            p.sum1[cell * d_inner + channel] = y;
                        }
                        if (p.top && (i + 1) % BLOCK == 0 && i + 1 < p.height) {
                            const index_t e = static_cast<index_t>(b) * top_edges + (i + 1) / BLOCK - 1;
                            float* out = p.top + ((e * p.width + j0 + c) * p.states + p.first_state) * d_inner + channel;
#pragma unroll
                            for (int n = 0; n < STATES; ++n, out += d_inner)
                                if (has_state(p, n)) *out = column[c][n];
                        }
                    }
                    if (warp + 1 < warps) {
#pragma unroll
                        for (int n = 0; n < STATES; ++n)
                            ring[(((warp + 1) * 2 + (t & 1)) * STATES + n) * 32 + lane] = row[n];
                    }
                    if (to_edge) {
                        float* out = edge_out;
#pragma unroll
                        for (int n = 0; n < STATES; ++n, out += d_inner)
                            if (has_state(p, n)) *out = row[n];
                        edge_out += edge_step;
                    }
                    y_at += p.y.row;
                }
                if (fetch) {
#pragma unroll
                    for (int f = 0; f < FETCH; ++f) {
                        const int e = f * 32 + lane;
                        float* next = stage + ((t + 1) & 1) * 2 * WEIGHTS;
                        if (e < WEIGHTS) {
                            next[e] = widen(next_B[f]);
                            next[WEIGHTS + e] = widen(next_C[f]);
                        }
                    }
#pragma unroll
                    for (int c = 0; c < COLUMNS; ++c) {
                        const bool inside = live && j0 + c < p.width;
                        x[c] = inside ? widen(next_x[c]) : 0.f;
                        dt[c] = inside ? step_size(widen(next_dt[c]), bias, p.softplus) : 0.f;
                        z[c] = inside && p.z.data ? widen(next_z[c]) : 0.f;
                    }
                    if (from_edge) {
#pragma unroll
                        for (int n = 0; n < STATES; ++n) ring[((t & 1) * STATES + n) * 32 + lane] = next_edge[n];
                    }
                }
                __syncthreads();  // hands the ring and the stage of this step over to the next
            }
        }
    }
}
