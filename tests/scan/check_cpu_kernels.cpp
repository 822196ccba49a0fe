// Runs the kernels of csrc/cpu without Python and compares them with the definition in double:
// for sanitizers, other compilers, and processors that only an emulator has.
//
// Every tensor is an allocation of its own, of its exact size, so that a read or write beyond it
// is seen. Prints one line per instruction set; returns 1 at the first number that is wrong.
#include "problem.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

extern "C" {
int scan2d_best_level();
const char* scan2d_level_name(int level);
int scan2d_forward(const Scan2dProblem*, float* y, int threads, int level);
int scan2d_backward(const Scan2dProblem*, const float* grad_y, const Scan2dGradients*, int threads,
                    int level);
}

namespace {

struct Shape {
    int64_t batch, height, width, channels, groups, states;
    bool optional, softplus;  // whether D, z and dt_bias are given
};

// Odd sizes around tiles, strips, vectors and chunks of states.
const Shape shapes[] = {
    {1, 1, 1, 1, 1, 1, true, true},     {1, 13, 25, 16, 1, 16, true, true},
    {2, 5, 3, 21, 1, 4, false, false},  {1, 12, 12, 40, 1, 1, true, true},
    {1, 14, 27, 33, 1, 17, true, true}, {1, 3, 29, 12, 3, 6, true, false},
    {1, 40, 2, 7, 1, 35, false, true},
};

struct Case {
    Shape shape;
    int64_t cells;
    std::mt19937 random{7};
    std::vector<float> x, dt, A, B, C, D, z, bias, grad_y;

    explicit Case(const Shape& s) : shape(s), cells(s.batch * s.height * s.width) {
        const int64_t wide = cells * s.channels, shared = cells * s.groups * s.states;
        x = draw(wide), dt = draw(wide), z = draw(wide), grad_y = draw(wide);
        if (!s.softplus)
            for (float& value : dt) value = std::fabs(value) * 0.3f;
        for (int64_t cell = 0; cell < cells; ++cell)  // as where a slide is empty
            if (cell / 7 % 2)
                std::copy_n(dt.begin(), s.channels, dt.begin() + cell * s.channels);
        A = draw(s.channels * s.states);
        for (float& value : A) value = -std::fabs(value);
        B = draw(shared), C = draw(shared);
        D = draw(s.channels), bias = draw(s.channels);
        if (!s.softplus)
            for (float& value : bias) value = std::fabs(value) * 0.1f;
    }

    std::vector<float> draw(int64_t count) {
        std::normal_distribution<float> normal;
        std::vector<float> values(static_cast<size_t>(count));
        for (float& value : values) value = normal(random);
        return values;
    }

    Scan2dProblem problem() const {
        const Shape& s = shape;
        Scan2dProblem p{};
        p.batch = s.batch, p.height = s.height, p.width = s.width;
        p.channels = s.channels, p.groups = s.groups, p.states = s.states;
        p.x_cell = p.dt_cell = p.z_cell = s.channels;
        p.B_cell = p.C_cell = s.groups * s.states;
        p.x = x.data(), p.dt = dt.data(), p.A = A.data(), p.B = B.data(), p.C = C.data();
        if (s.optional) p.D = D.data(), p.z = z.data(), p.dt_bias = bias.data();
        p.dt_softplus = s.softplus;
        return p;
    }
};

// y, then the gradients of x, dt, A, B, C, D, z, dt_bias.
struct Numbers {
    std::vector<std::vector<double>> all;
    double error(const std::vector<std::vector<float>>& found) const {
        double worst = 0;
        for (size_t i = 0; i < all.size(); ++i) {
            double scale = 1e-3;
            for (double value : all[i]) scale = std::fmax(scale, std::fabs(value));
            for (size_t k = 0; k < all[i].size(); ++k) {
                const double off = std::fabs(all[i][k] - double(found[i][k])) / scale;
                if (!(off <= worst)) worst = off;  // a NaN stays
            }
        }
        return worst;
    }
};

Numbers definition(const Case& c) {
    const Shape& s = c.shape;
    const int64_t H = s.height, W = s.width, K = s.channels, N = s.states;
    const auto zeros = [](const std::vector<float>& like) {
        return std::vector<double>(like.size(), 0.0);
    };
    Numbers numbers;
    numbers.all = {zeros(c.x), zeros(c.x), zeros(c.dt), zeros(c.A),   zeros(c.B),
                   zeros(c.C), zeros(c.D), zeros(c.z),  zeros(c.bias)};
    auto &y = numbers.all[0], &gx = numbers.all[1], &gdt = numbers.all[2], &gA = numbers.all[3];
    auto &gB = numbers.all[4], &gC = numbers.all[5], &gD = numbers.all[6], &gz = numbers.all[7];
    auto& gbias = numbers.all[8];
    std::vector<double> a(H * W), across(H * W), h(H * W), of_h(H * W), of_across(H * W);
    for (int64_t batch = 0; batch < s.batch; ++batch)
        for (int64_t k = 0; k < K; ++k) {
            const int64_t group = k / (K / s.groups);
            const auto wide = [&](int64_t cell) { return (batch * H * W + cell) * K + k; };
            const auto shared = [&](int64_t cell, int64_t n) {
                return ((batch * H * W + cell) * s.groups + group) * N + n;
            };
            std::vector<double> dt(H * W), slope(H * W, 1.0), gate(H * W, 1.0), sum(H * W, 0.0);
            for (int64_t i = 0; i < H * W; ++i) {
                const double raw = c.dt[wide(i)] + (s.optional ? c.bias[k] : 0.0);
                dt[i] = s.softplus ? std::log1p(std::exp(raw)) : raw;
                if (s.softplus) slope[i] = 1 / (1 + std::exp(-raw));
                if (s.optional) gate[i] = 1 / (1 + std::exp(-double(c.z[wide(i)])));
                if (s.optional) sum[i] = double(c.D[k]) * c.x[wide(i)];
            }
            std::vector<double> grad(H * W), of_dt(H * W, 0.0);
            for (int64_t i = 0; i < H * W; ++i)
                grad[i] = c.grad_y[wide(i)] * (s.optional ? c.z[wide(i)] * gate[i] : 1.0);
            for (int64_t n = 0; n < N; ++n) {
                const double rate = c.A[k * N + n];
                for (int64_t i = 0; i < H * W; ++i) {
                    const bool first_row = i < W, first_column = i % W == 0;
                    a[i] = std::exp(dt[i] * rate);
                    across[i] = dt[i] * c.x[wide(i)] * c.B[shared(i, n)] +
                                (first_column ? 0 : a[i] * across[i - 1]);
                    h[i] = across[i] + (first_row ? 0 : a[i] * h[i - W]);
                    sum[i] += c.C[shared(i, n)] * h[i];
                }
                for (int64_t i = H * W - 1; i >= 0; --i) {
                    const bool last_row = i >= (H - 1) * W, last_column = i % W == W - 1;
                    const bool first_row = i < W, first_column = i % W == 0;
                    of_h[i] = c.C[shared(i, n)] * grad[i] + (last_row ? 0 : a[i + W] * of_h[i + W]);
                    of_across[i] = of_h[i] + (last_column ? 0 : a[i + 1] * of_across[i + 1]);
                    const double of_a = (first_row ? 0 : of_h[i] * h[i - W]) +
                                        (first_column ? 0 : of_across[i] * across[i - 1]);
                    const double B = c.B[shared(i, n)], x = c.x[wide(i)];
                    gC[shared(i, n)] += grad[i] * h[i];
                    gB[shared(i, n)] += of_across[i] * dt[i] * x;
                    gx[wide(i)] += of_across[i] * dt[i] * B;
                    of_dt[i] += of_across[i] * B * x + of_a * a[i] * rate;
                    gA[k * N + n] += of_a * a[i] * dt[i];
                }
            }
            for (int64_t i = 0; i < H * W; ++i) {
                y[wide(i)] = sum[i] * (s.optional ? c.z[wide(i)] * gate[i] : 1.0);
                gdt[wide(i)] = of_dt[i] * slope[i];
                if (!s.optional) continue;
                gbias[k] += gdt[wide(i)];
                gx[wide(i)] += double(c.D[k]) * grad[i];
                gD[k] += grad[i] * c.x[wide(i)];
                gz[wide(i)] = c.grad_y[wide(i)] * sum[i] * gate[i] *
                              (1 + c.z[wide(i)] * (1 - gate[i]));
            }
        }
    return numbers;
}

std::vector<std::vector<float>> kernels(const Case& c, int threads, int level) {
    const float unset = std::numeric_limits<float>::quiet_NaN();
    const auto like = [&](const std::vector<float>& t) {
        return std::vector<float>(t.size(), unset);
    };
    std::vector<std::vector<float>> found = {like(c.x), like(c.x), like(c.dt), like(c.A),   like(c.B),
                                             like(c.C), like(c.D), like(c.z),  like(c.bias)};
    const Scan2dProblem p = c.problem();
    Scan2dGradients grads{};
    grads.x = found[1].data(), grads.dt = found[2].data(), grads.A = found[3].data();
    grads.B = found[4].data(), grads.C = found[5].data();
    if (c.shape.optional)
        grads.D = found[6].data(), grads.z = found[7].data(), grads.dt_bias = found[8].data();
    else
        for (int i = 6; i < 9; ++i) found[i].assign(found[i].size(), 0.f);
    if (scan2d_forward(&p, found[0].data(), threads, level) ||
        scan2d_backward(&p, c.grad_y.data(), &grads, threads, level)) {
        std::printf("out of memory\n");
        std::exit(1);
    }
    return found;
}

}  // namespace

int main() {
    for (int level = 0; level <= scan2d_best_level(); ++level) {
        double worst = 0;
        for (const Shape& shape : shapes) {
            const Case c(shape);
            const auto found = kernels(c, 1, level), again = kernels(c, 3, level);
            for (size_t i = 0; i < found.size(); ++i)
                if (std::memcmp(found[i].data(), again[i].data(), found[i].size() * sizeof(float))) {
                    std::printf("three threads give other bits than one: tensor %zu\n", i);
                    return 1;
                }
            const double error = definition(c).error(found);
            if (!(error <= worst)) worst = error;
        }
        std::printf("%s: largest error %.1e\n", scan2d_level_name(level), worst);
        if (!(worst < 2e-5)) return 1;
    }
}
