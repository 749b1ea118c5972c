// What the CUDA kernels on maps do with single values, as the CPU's vectors do (cpu/vector.h).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace fastmte {

// The type that arithmetic on T is done in.
template <typename T>
struct Arithmetic {
  using Type = T;
};
template <>
struct Arithmetic<__nv_bfloat16> {
  using Type = float;
};

__device__ inline float widened(float x) { return x; }
__device__ inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline double widened(double x) { return x; }

__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ inline void store(double* to, double x) { *to = x; }

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// NaN where either is NaN, as torch.max_pool2d has it.
template <typename T>
__device__ T max_keeping_nan(T a, T b) {
  return b > a || b != b ? b : a;
}

__device__ inline float elu(float x) { return x < 0 ? expm1f(x) : x; }
__device__ inline double elu(double x) { return x < 0 ? expm1(x) : x; }

// NaN where x is.
template <typename T>
__device__ T relu(T x) {
  return x < 0 ? T{0} : x;
}

}  // namespace fastmte
