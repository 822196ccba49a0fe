// What the forward and the backward kernels of the 2D selective scan share.
//
// Self-contained: no header but this one. The host passes these shape constants with -D:
//   SCAN_IO        0 float32, 1 float16, 2 bfloat16: the type of x, dt, B, C, z, y and their gradients
//   STATES         states per launch, 1 to 16; more states run as several launches
//   WHOLE          1 where every launch has STATES states, 0 where the last one has fewer
//   COLUMNS        columns that one warp of scan_forward owns
//   BLOCK          rows and columns of a block of cells in the backward pass, 4 or 8
//   STATE_LANES    lanes of a backward warp that share a channel, 1, 2 or 4
//   BACKWARD_WARPS warps of a backward CTA
// The emulation in csrc/emulation replaces the few device primitives under SCAN_EMULATED.
#pragma once

#ifndef SCAN_EMULATED
#define SCAN_DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]

static __device__ __forceinline__ float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
static __device__ __forceinline__ float half_to_float(unsigned short v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
    return r;
}
static __device__ __forceinline__ unsigned short float_to_half(float v) {
    unsigned short r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
#endif

#define LOG2E 1.4426950408889634f
#define ALL_LANES 0xffffffffu

typedef long long index_t;

// A tensor over (batch, row, column, group) whose last axis is contiguous; strides in elements.
struct Strided {
    void* data;
    index_t batch, row, column, group;
};

// The one argument of every kernel. scan/cuda.py writes the same fields in the same order.
struct Scan {
    Strided x, dt, B, C, z, y;
    Strided grad_y, grad_x, grad_dt, grad_z;
    const float *A, *D, *dt_bias;             // (d_inner, states), (d_inner), (d_inner); D, dt_bias may be null
    float* pregate;                           // (batch, H, W, d_inner): y before the gate, or null
    float* left;                              // (batch, edges, H, states, d_inner): row state after every `spacing` columns
    float* top;                               // (batch, edges, W, states, d_inner): column state after every BLOCK rows
    float* below;                             // as top: the gradient that flows up into a band
    float *sum1, *sum2;                       // (batch, H, W, d_inner): sums over states between launches
    float *part_A, *part_D, *part_dt_bias;    // (batch, bands, states, d_inner), (batch, bands, d_inner) twice
    float *part_B, *part_C;                   // (channel tiles, batch, H, W, groups, states)
    int batches, height, width, groups, channels;  // channels of one group
    int states, first_state;                       // all states; the first one of this launch
    int spacing, strip;                            // columns between left edges; columns of a forward CTA
    int softplus, write_left, first, last;         // first and last launch over the states
};

#if SCAN_IO == 0
typedef float io_t;
static __device__ __forceinline__ float widen(io_t v) { return v; }
static __device__ __forceinline__ io_t narrow(float v) { return v; }
#elif SCAN_IO == 1
typedef unsigned short io_t;
static __device__ __forceinline__ float widen(io_t v) { return half_to_float(v); }
static __device__ __forceinline__ io_t narrow(float v) { return float_to_half(v); }
#else
typedef unsigned short io_t;
static __device__ __forceinline__ float widen(io_t v) {
    return __uint_as_float(static_cast<unsigned>(v) << 16);
}
static __device__ __forceinline__ io_t narrow(float v) {  // round to nearest even
    const unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<io_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#endif

// Address of the first element of a cell's group.
static __device__ __forceinline__ io_t* cell_of(const Strided& t, int b, int i, int j, int g) {
    return static_cast<io_t*>(t.data) + (b * t.batch + i * t.row + j * t.column + g * t.group);
}

// The step size: bias, then softplus, which is the identity above 20 as in torch.
static __device__ __forceinline__ float step_size(float raw, float bias, int softplus) {
    const float v = raw + bias;
    return softplus && v <= 20.f ? log1pf(expf(v)) : v;
}

static __device__ __forceinline__ float silu(float v) { return __fdividef(v, 1.f + expf(-v)); }

// Whether state n of this launch exists.
static __device__ __forceinline__ bool has_state(const Scan& p, int n) {
    return WHOLE || p.first_state + n < p.states;
}

static __device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Walks one line of cells and writes its state at every edge, for 32 channels at a time.
//
// Along a row, left to right:    s = a * s + dt * x * B       after every `spacing` columns
// Up a column (the gradient):    s = a * (s + grad_y * C)     above every BLOCK rows
//
// Either recurrence knows nothing of the other axis, so that all lines run at once and what
// they write lets scan_forward work on strips of columns, and scan_backward on bands of rows,
// independently and in exactly the order of the sequential definition.
// Block (32, lines); grid (lines of the image, channel tiles, batch).
template <bool UP>
static __device__ __forceinline__ void walk_lines(const Scan& p, float* shared) {
    constexpr int PANEL = 4;  // cells fetched together, one panel ahead of the arithmetic
    constexpr int FETCH = (PANEL * STATES + 31) / 32;
    const int lane = threadIdx.x;
    const int line = blockIdx.x * blockDim.y + threadIdx.y;
    if (line >= (UP ? p.width : p.height)) return;
    const int tiles = ceil_div(p.channels, 32);
    const int g = blockIdx.y / tiles, k = blockIdx.y % tiles * 32 + lane;
    const bool live = k < p.channels;
    const int d_inner = p.groups * p.channels, channel = g * p.channels + k;
    const int spacing = UP ? BLOCK : p.spacing;
    const int edges = ceil_div(UP ? p.height : p.width, spacing) - 1;
    const int count = UP ? p.height - BLOCK : edges * spacing;
    float* stage = shared + threadIdx.y * 2 * PANEL * STATES;

    float a2[STATES];
#pragma unroll
    for (int n = 0; n < STATES; ++n)
        a2[n] = live && has_state(p, n) ? p.A[static_cast<index_t>(channel) * p.states + p.first_state + n] * LOG2E : 0.f;
    const float bias = live && p.dt_bias ? p.dt_bias[channel] : 0.f;
    const Strided &value = UP ? p.grad_y : p.x, &weights = UP ? p.C : p.B;
    // Elements from a cell of the line to the next one.
    const index_t dt_step = UP ? -p.dt.row : p.dt.column, value_step = UP ? -value.row : value.column;
    const index_t z_step = -p.z.row, weight_step = UP ? -weights.row : weights.column;
    const index_t edge_step = static_cast<index_t>(UP ? -p.width : p.height) * p.states * d_inner;

    for (int b = blockIdx.z; b < p.batches; b += gridDim.z) {
        if (count <= 0) break;
        const int i = UP ? p.height - 1 : line, j = UP ? line : 0;
        const io_t* dt_at = cell_of(p.dt, b, i, j, g) + k;
        const io_t* value_at = cell_of(value, b, i, j, g) + k;
        const io_t* z_at = UP && p.z.data ? cell_of(p.z, b, i, j, g) + k : nullptr;
        const io_t* weight_at = cell_of(weights, b, i, j, g) + p.first_state;
        const index_t edge = static_cast<index_t>(b) * edges + (UP ? (p.height - 1) / BLOCK - 1 : 0);
        float* out = (UP ? p.below : p.left)
                     + ((edge * (UP ? p.width : p.height) + line) * p.states + p.first_state) * d_inner + channel;
        float s[STATES];
#pragma unroll
        for (int n = 0; n < STATES; ++n) s[n] = 0.f;
        io_t next_dt[PANEL], next_v[PANEL], next_z[PANEL], next_w[FETCH];
        const auto fetch = [&](int first) {
#pragma unroll
            for (int q = 0; q < PANEL; ++q) {
                if (live && first + q < count) {
                    next_dt[q] = dt_at[q * dt_step];
                    next_v[q] = value_at[q * value_step];
                    if (UP && p.z.data) next_z[q] = z_at[q * z_step];
                }
            }
#pragma unroll
            for (int f = 0; f < FETCH; ++f) {
                const int e = f * 32 + lane, q = e / STATES, n = e % STATES;
                next_w[f] = q < PANEL && first + q < count && has_state(p, n) ? weight_at[q * weight_step + n] : narrow(0.f);
            }
            dt_at += PANEL * dt_step;
            value_at += PANEL * value_step;
            if (UP && p.z.data) z_at += PANEL * z_step;
            weight_at += PANEL * weight_step;
        };
        fetch(0);
        int until_edge = UP ? p.height - (p.height - 1) / BLOCK * BLOCK : spacing;
        for (int first = 0, half = 0; first < count; first += PANEL, half ^= 1) {
            float* weight = stage + half * PANEL * STATES;
            float dt[PANEL], v[PANEL];
#pragma unroll
            for (int f = 0; f < FETCH; ++f) {
                const int e = f * 32 + lane;
                if (e < PANEL * STATES) weight[e] = widen(next_w[f]);
            }
#pragma unroll
            for (int q = 0; q < PANEL; ++q) {
                dt[q] = v[q] = 0.f;
                if (live && first + q < count) {
                    dt[q] = step_size(widen(next_dt[q]), bias, p.softplus);
                    v[q] = widen(next_v[q]);
                    if (!UP) v[q] *= dt[q];
                    if (UP && p.z.data) v[q] *= silu(widen(next_z[q]));
                }
            }
            __syncwarp();  // the two halves of `stage` alternate, so that one is enough
            fetch(first + PANEL);
#pragma unroll
            for (int q = 0; q < PANEL; ++q) {
                if (first + q >= count) break;
#pragma unroll
                for (int n = 0; n < STATES; ++n) {
                    const float a = exp2_fast(dt[q] * a2[n]);
                    const float w = weight[q * STATES + n];
                    s[n] = UP ? a * (s[n] + v[q] * w) : a * s[n] + v[q] * w;
                }
                if (--until_edge > 0) continue;
                until_edge = spacing;
                if (live) {
                    float* to = out;
#pragma unroll
                    for (int n = 0; n < STATES; ++n, to += d_inner)
                        if (has_state(p, n)) *to = s[n];
                }
                out += edge_step;
            }
        }
        __syncwarp();  // before the next batch item writes the half that is still being read
    }
}
