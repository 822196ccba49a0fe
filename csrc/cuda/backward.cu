// Backward 2D selective scan.
//
//   G[i,j] = C grad_y + a[i+1,j] G[i+1,j]      gradient of h, up each column
//   R[i,j] = G[i,j]   + a[i,j+1] R[i,j+1]      gradient of h1, right to left along each row
//   q = R h1[i,j-1] + G h[i-1,j]               gradient of a
//   P = sum_n q a A,  Q = sum_n R B
//   grad_dt = P + x Q,  grad_x = dt Q + D grad_y,  grad_A += q a dt
//   grad_B = sum_channels R dt x,  grad_C = sum_channels grad_y h
//
// Nothing of size (H, W, d_inner, states) is stored: h1 and h are computed again, block by
// block, from the edges that the forward pass kept. Sums over channels and bands go to partial
// buffers that the host adds up in order; no atomics, so two runs agree bit for bit.
#include "scan.cuh"

// The gradient that enters each band of BLOCK rows from below. Runs before scan_backward.
extern "C" __global__ void __launch_bounds__(64) scan_gradient_edges(const Scan p) {
    SCAN_DYNAMIC_SHARED(shared);
    walk_lines<true>(p, shared);
}

namespace {

constexpr int CELLS = BLOCK * BLOCK;
constexpr int TILES = BLOCK / 4;                       // tiles of 4 x 4 cells along a side of a block
constexpr int CHANNELS = 32 / STATE_LANES;             // channels of a warp
constexpr int ROUNDS = (STATES + STATE_LANES - 1) / STATE_LANES;
constexpr int PADDED = ROUNDS * STATE_LANES;
constexpr int PITCH = CELLS + 4;                       // keeps the state lanes in different banks
constexpr int WARP_FLOATS = 5 * CELLS * CHANNELS + 2 * PADDED * PITCH + ROUNDS * BLOCK * 32
                            + 2 * TILES * BLOCK * 32 + ROUNDS * 32;

struct __align__(16) Four {
    float v[4];
};
__device__ __forceinline__ Four four(const float* p) { return *reinterpret_cast<const Four*>(p); }

// Sums v over the LANES lanes that differ in the bits [UNIT, UNIT * LANES) of the lane number.
// Afterwards the lane with number r among them holds the sums of v[r * 32 / LANES ...] in
// v[0 ...]. The order of additions is fixed.
template <int LANES, int UNIT>
__device__ __forceinline__ void sum_over_lanes(float (&v)[32], int lane) {
    int kept = 32;
#pragma unroll
    for (int m = LANES / 2; m > 0; m /= 2) {
        const bool upper = lane & (m * UNIT);
        kept /= 2;
#pragma unroll
        for (int e = 0; e < 16; ++e) {
            if (e >= kept) break;
            const float mine = upper ? v[e + kept] : v[e], other = upper ? v[e] : v[e + kept];
            v[e] = mine + __shfl_xor_sync(ALL_LANES, other, m * UNIT);
        }
    }
}

}  // namespace

// A CTA takes a band of BLOCK rows and goes through its blocks of BLOCK x BLOCK cells from
// right to left. A warp takes CHANNELS channels; STATE_LANES lanes share a channel and each
// takes one state per round. A lane then owns a 4 x 4 tile of one state in its registers, and
// sums over states and over channels are butterfly sums of 32 values.
// Block (32, BACKWARD_WARPS); grid (bands, channel tiles, batch).
extern "C" __global__ void __launch_bounds__(32 * BACKWARD_WARPS, 1) scan_backward(const Scan p) {
    SCAN_DYNAMIC_SHARED(shared);
    constexpr int WIDTH = CHANNELS * BACKWARD_WARPS;
    const int lane = threadIdx.x, warp = threadIdx.y;
    const int q = lane % CHANNELS, part = lane / CHANNELS;
    const int band = blockIdx.x, bands = gridDim.x, tiles = ceil_div(p.channels, WIDTH);
    const int g = blockIdx.y / tiles, tile = blockIdx.y % tiles, k = tile * WIDTH + warp * CHANNELS + q;
    const bool live = k < p.channels;
    const int d_inner = p.groups * p.channels, channel = g * p.channels + k;
    const int i0 = band * BLOCK;
    const int left_edges = ceil_div(p.width, BLOCK) - 1;

    float* dt_of = shared + warp * WARP_FLOATS;          // [CELLS][CHANNELS], as the four below
    float* inflow_of = dt_of + CELLS * CHANNELS;         // dt x
    float* grad_of = inflow_of + CELLS * CHANNELS;       // gradient of y before the gate
    float* P_of = grad_of + CELLS * CHANNELS;
    float* Q_of = P_of + CELLS * CHANNELS;
    float* B_of = Q_of + CELLS * CHANNELS;               // [PADDED][PITCH]: B, then its gradient
    float* C_of = B_of + PADDED * PITCH;                 // as B_of
    float* right_of = C_of + PADDED * PITCH;             // [ROUNDS][BLOCK][32]: a R of the cell to the right
    float* row_of = right_of + ROUNDS * BLOCK * 32;      // [TILES][BLOCK][32]: h1 left of each column of tiles
    float* column_of = row_of + TILES * BLOCK * 32;      // [TILES][BLOCK][32]: h above each row of tiles
    float* grad_A_of = column_of + TILES * BLOCK * 32;   // [ROUNDS][32]
    const float bias = live && p.dt_bias ? p.dt_bias[channel] : 0.f;
    const float skip = live && p.D ? p.D[channel] : 0.f;

    for (int b = blockIdx.z; b < p.batches; b += gridDim.z) {
        float grad_D = 0.f, grad_bias = 0.f;
        for (int e = 0; e < ROUNDS * BLOCK; ++e) right_of[e * 32 + lane] = 0.f;
        for (int r = 0; r < ROUNDS; ++r) grad_A_of[r * 32 + lane] = 0.f;

        for (int block = left_edges; block >= 0; --block) {
            const int j0 = block * BLOCK;
            for (int e = part; e < CELLS; e += STATE_LANES) {
                const int i = i0 + e / BLOCK, j = j0 + e % BLOCK;
                float dt = 0.f, inflow = 0.f, grad = 0.f;  // a cell outside passes states on unchanged
                if (live && i < p.height && j < p.width) {
                    dt = step_size(widen(cell_of(p.dt, b, i, j, g)[k]), bias, p.softplus);
                    inflow = dt * widen(cell_of(p.x, b, i, j, g)[k]);
                    grad = widen(cell_of(p.grad_y, b, i, j, g)[k]);
                    if (p.z.data) grad *= silu(widen(cell_of(p.z, b, i, j, g)[k]));
                }
                dt_of[e * CHANNELS + q] = dt;
                inflow_of[e * CHANNELS + q] = inflow;
                grad_of[e * CHANNELS + q] = grad;
            }
            for (int e = lane; e < CELLS * PADDED; e += 32) {
                const int cell = e / PADDED, n = e % PADDED, state = p.first_state + n;
                const int i = i0 + cell / BLOCK, j = j0 + cell % BLOCK;
                const bool inside = n < STATES && has_state(p, n) && i < p.height && j < p.width;
                B_of[n * PITCH + cell] = inside ? widen(cell_of(p.B, b, i, j, g)[state]) : 0.f;
                C_of[n * PITCH + cell] = inside ? widen(cell_of(p.C, b, i, j, g)[state]) : 0.f;
            }
            __syncwarp();

            for (int r = 0; r < ROUNDS; ++r) {
                const int n = r * STATE_LANES + part, state = p.first_state + n;
                const bool active = live && n < STATES && has_state(p, n);
                const float A = active ? p.A[static_cast<index_t>(channel) * p.states + state] : 0.f;
                const float a2 = A * LOG2E;
                const float *B = B_of + n * PITCH, *C = C_of + n * PITCH;
                float grad_A = 0.f;

                float below[BLOCK];
#pragma unroll
                for (int e = 0; e < BLOCK; ++e) {
                    const index_t left = (static_cast<index_t>(b) * left_edges + block - 1) * p.height + i0 + e;
                    const index_t top = (static_cast<index_t>(b) * (bands - 1) + band - 1) * p.width + j0 + e;
                    row_of[e * 32 + lane] = active && block > 0 && i0 + e < p.height
                                                ? p.left[(left * p.states + state) * d_inner + channel] : 0.f;
                    column_of[e * 32 + lane] = active && band > 0 && j0 + e < p.width
                                                   ? p.top[(top * p.states + state) * d_inner + channel] : 0.f;
                    below[e] = active && band + 1 < bands && j0 + e < p.width
                                   ? p.below[((top + p.width) * p.states + state) * d_inner + channel] : 0.f;
                }
                if (TILES == 2) {  // the edges between the tiles of the block
                    float column[BLOCK];
#pragma unroll
                    for (int j = 0; j < BLOCK; ++j) column[j] = column_of[j * 32 + lane];
#pragma unroll
                    for (int i = 0; i < BLOCK; ++i) {
                        float row = row_of[i * 32 + lane];
#pragma unroll
                        for (int j = 0; j < BLOCK; ++j) {
                            if (i >= 4 && j >= 4) break;
                            const int e = i * BLOCK + j;
                            const float a = exp2_fast(dt_of[e * CHANNELS + q] * a2);
                            row = a * row + inflow_of[e * CHANNELS + q] * B[e];
                            if (i < 4) column[j] = a * column[j] + row;
                            if (j == 3) row_of[((TILES - 1) * BLOCK + i) * 32 + lane] = row;
                        }
                    }
#pragma unroll
                    for (int j = 0; j < BLOCK; ++j) column_of[((TILES - 1) * BLOCK + j) * 32 + lane] = column[j];
                }

#pragma unroll
                for (int tj = TILES - 1; tj >= 0; --tj) {
                    float up[4];  // a G of the cell below
#pragma unroll
                    for (int j = 0; j < 4; ++j) up[j] = below[tj * 4 + j];
#pragma unroll 1
                    for (int ti = TILES - 1; ti >= 0; --ti) {
                        float a[4][4], row_before[4][4], column[5][4], right[4];
#pragma unroll
                        for (int j = 0; j < 4; ++j) column[0][j] = column_of[(ti * BLOCK + tj * 4 + j) * 32 + lane];
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int e = (ti * 4 + i) * BLOCK + tj * 4;
                            const Four b4 = four(B + e);
                            float row = row_of[(tj * BLOCK + ti * 4 + i) * 32 + lane];
                            right[i] = right_of[(r * BLOCK + ti * 4 + i) * 32 + lane];
#pragma unroll
                            for (int j = 0; j < 4; ++j) {
                                a[i][j] = exp2_fast(dt_of[(e + j) * CHANNELS + q] * a2);
                                row_before[i][j] = row;
                                row = a[i][j] * row + inflow_of[(e + j) * CHANNELS + q] * b4.v[j];
                                column[i + 1][j] = a[i][j] * column[i][j] + row;
                            }
                        }
                        float over_states[32], over_channels[32];  // P and Q; grad_B and grad_C
#pragma unroll
                        for (int i = 3; i >= 0; --i) {
                            const int e = (ti * 4 + i) * BLOCK + tj * 4;
                            const Four b4 = four(B + e), c4 = four(C + e);
#pragma unroll
                            for (int j = 3; j >= 0; --j) {
                                const float grad = grad_of[(e + j) * CHANNELS + q];
                                const float G = c4.v[j] * grad + up[j], R = G + right[i];
                                const float decay = (R * row_before[i][j] + G * column[i][j]) * a[i][j];
                                const bool inside = i0 + ti * 4 + i < p.height && j0 + tj * 4 + j < p.width;
                                grad_A += inside ? decay * dt_of[(e + j) * CHANNELS + q] : 0.f;
                                over_states[i * 4 + j] = decay * A;
                                over_states[16 + i * 4 + j] = R * b4.v[j];
                                over_channels[i * 4 + j] = R * inflow_of[(e + j) * CHANNELS + q];
                                over_channels[16 + i * 4 + j] = grad * column[i + 1][j];
                                up[j] = a[i][j] * G;
                                right[i] = a[i][j] * R;
                            }
                            right_of[(r * BLOCK + ti * 4 + i) * 32 + lane] = right[i];
                        }
                        sum_over_lanes<STATE_LANES, CHANNELS>(over_states, lane);
                        sum_over_lanes<CHANNELS, 1>(over_channels, lane);
                        __syncwarp();  // all lanes have read B and C of this tile and state
#pragma unroll
                        for (int m = 0; m < 32 / STATE_LANES; ++m) {
                            const int v = part * (32 / STATE_LANES) + m;
                            const int e = (ti * 4 + v % 16 / 4) * BLOCK + tj * 4 + v % 4;
                            float& sum = (v < 16 ? P_of : Q_of)[e * CHANNELS + q];
                            sum = r == 0 ? over_states[m] : sum + over_states[m];
                        }
#pragma unroll
                        for (int m = 0; m < 32 / CHANNELS; ++m) {
                            const int v = q * (32 / CHANNELS) + m;
                            const int e = (ti * 4 + v % 16 / 4) * BLOCK + tj * 4 + v % 4;
                            (v < 16 ? B_of : C_of)[n * PITCH + e] = over_channels[m];
                        }
                    }
                }
                grad_A_of[r * 32 + lane] += grad_A;
            }

            __syncthreads();  // P, Q and the gradients of B and C of every warp are written
            for (int e = part; e < CELLS; e += STATE_LANES) {
                const int i = i0 + e / BLOCK, j = j0 + e % BLOCK;
                if (!live || i >= p.height || j >= p.width) continue;
                const index_t at = ((static_cast<index_t>(b) * p.height + i) * p.width + j) * d_inner + channel;
                float P = P_of[e * CHANNELS + q], Q = Q_of[e * CHANNELS + q];
                if (!p.first) {
                    P += p.sum1[at];
                    Q += p.sum2[at];
                }
                if (!p.last) {
                    p.sum1[at] = P;
                    p.sum2[at] = Q;
                    continue;
                }
                const float x = widen(cell_of(p.x, b, i, j, g)[k]);
                const float dt = dt_of[e * CHANNELS + q], grad = grad_of[e * CHANNELS + q];
                float grad_dt = P + x * Q;
                // The slope of softplus is 1 - exp(-softplus), and exactly 1 above the threshold.
                if (p.softplus) grad_dt *= -expm1f(-dt);
                grad_bias += grad_dt;
                grad_D += grad * x;
                cell_of(p.grad_dt, b, i, j, g)[k] = narrow(grad_dt);
                cell_of(p.grad_x, b, i, j, g)[k] = narrow(p.D ? dt * Q + skip * grad : dt * Q);
                if (p.z.data) {
                    const float z = widen(cell_of(p.z, b, i, j, g)[k]), s = sigmoid(z);
                    const float slope = s * (1.f + z * (1.f - s));
                    cell_of(p.grad_z, b, i, j, g)[k] = narrow(widen(cell_of(p.grad_y, b, i, j, g)[k]) * p.pregate[at] * slope);
                }
            }
            for (int e = warp * 32 + lane; e < CELLS * PADDED; e += 32 * BACKWARD_WARPS) {
                const int cell = e / PADDED, n = e % PADDED, state = p.first_state + n;
                const int i = i0 + cell / BLOCK, j = j0 + cell % BLOCK;
                if (n >= STATES || !has_state(p, n) || i >= p.height || j >= p.width) continue;
                float sum_B = 0.f, sum_C = 0.f;
                for (int w = 0; w < BACKWARD_WARPS; ++w) {
                    sum_B += B_of[(w - warp) * WARP_FLOATS + n * PITCH + cell];
                    sum_C += C_of[(w - warp) * WARP_FLOATS + n * PITCH + cell];
                }
                const index_t row = ((static_cast<index_t>(tile) * p.batches + b) * p.height + i) * p.width + j;
                const index_t at = (row * p.groups + g) * p.states + state;
                p.part_B[at] = sum_B;
                p.part_C[at] = sum_C;
            }
            __syncthreads();  // before the next block of cells overwrites what was just read
        }

        const index_t item = static_cast<index_t>(b) * bands + band;
        for (int r = 0; r < ROUNDS; ++r) {
            const int n = r * STATE_LANES + part, state = p.first_state + n;
            if (live && n < STATES && has_state(p, n))
                p.part_A[(item * p.states + state) * d_inner + channel] = grad_A_of[r * 32 + lane];
        }
#pragma unroll
        for (int m = 16; m >= CHANNELS; m /= 2) {
            grad_D += __shfl_xor_sync(ALL_LANES, grad_D, m);
            grad_bias += __shfl_xor_sync(ALL_LANES, grad_bias, m);
        }
        if (p.last && live && part == 0) {
            p.part_D[item * d_inner + channel] = grad_D;
            p.part_dt_bias[item * d_inner + channel] = grad_bias;
        }
    }
}
