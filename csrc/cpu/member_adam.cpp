// member_adam_ on the CPU: one pass over a parameter, its gradient and its moments, in blocks that
// stay in the cache.
//
// Each value is rounded where torch's own operators round it, one after another, so that the bits
// are theirs: std::fma where they fuse, and torch's own square root, which is not everywhere the
// nearest. The compiler turns these loops into vectors.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "check.h"
#include "cpu/vector.h"

namespace fastmte {
namespace {

constexpr int64_t kBlock = 1 << 14;

template <typename T>
struct AdamOptions {
  T toward_gradient, beta2, toward_square, correction, eps;
};

// The moments of n values; also copies the second to `square`.
template <typename T>
FASTMTE_INLINE void moments_body(const T* __restrict gradient, T* __restrict exp_avg,
                                 T* __restrict exp_avg_sq, T* __restrict square, int64_t n,
                                 const AdamOptions<T>& options) {
  const T toward_gradient = options.toward_gradient, toward_square = options.toward_square;
  const T beta2 = options.beta2;
  for (int64_t i = 0; i < n; ++i) {
    const T g = gradient[i];
    exp_avg[i] = std::fma(toward_gradient, g - exp_avg[i], exp_avg[i]);
    square[i] = exp_avg_sq[i] = std::fma(toward_square * g, g, exp_avg_sq[i] * beta2);
  }
}

// Moves n values of one row, whose step is `size`.
template <typename T>
FASTMTE_INLINE void move_body(T* __restrict parameter, const T* __restrict exp_avg,
                              const T* __restrict root, int64_t n, T size,
                              const AdamOptions<T>& options) {
  const T correction = options.correction, eps = options.eps;
  for (int64_t i = 0; i < n; ++i) parameter[i] += exp_avg[i] * size / (root[i] / correction + eps);
}

#define FASTMTE_ADAM_CLONES(name, target)                                                        \
  template <typename T>                                                                          \
  target void moments_##name(const T* gradient, T* exp_avg, T* exp_avg_sq, T* square, int64_t n, \
                             const AdamOptions<T>& options) {                                    \
    moments_body(gradient, exp_avg, exp_avg_sq, square, n, options);                             \
  }                                                                                              \
  template <typename T>                                                                          \
  target void move_##name(T* parameter, const T* exp_avg, const T* root, int64_t n, T size,      \
                          const AdamOptions<T>& options) {                                       \
    move_body(parameter, exp_avg, root, n, size, options);                                       \
  }

FASTMTE_ADAM_CLONES(portable, )
#ifdef FASTMTE_HAS_AVX2
FASTMTE_ADAM_CLONES(avx2, FASTMTE_AVX2_TARGET)
FASTMTE_ADAM_CLONES(avx512, FASTMTE_AVX512_TARGET)
#define FASTMTE_ADAM(function)                  \
  (isa() == Isa::kAvx512 ? function##_avx512<T> \
   : isa() == Isa::kAvx2 ? function##_avx2<T>   \
                         : function##_portable<T>)
#else
#define FASTMTE_ADAM(function) function##_portable<T>
#endif

void take_roots(const Tensor& x) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(x)};
  STD_TORCH_CHECK(torch_call_dispatcher("aten::sqrt_", "", stack.data(), TORCH_ABI_VERSION) == 0);
  torch::stable::detail::to<Tensor>(stack[0]);  // the same tensor: lets go of it
}

void check_member_adam(const Tensor& parameter, const Tensor& gradient, const Tensor& exp_avg,
                       const Tensor& exp_avg_sq, const Tensor& sizes) {
  constexpr const char* kOp = "member_adam_";
  const int64_t n_dims = parameter.dim();
  FASTMTE_CHECK(n_dims >= 1, kOp, ": parameter must have a dimension, of rows, got 0-D");
  check_tensor(kOp, "parameter", parameter, n_dims, {ScalarType::Float, ScalarType::Double},
               parameter);
  const std::pair<const char*, const Tensor*> others[] = {
      {"gradient", &gradient}, {"exp_avg", &exp_avg}, {"exp_avg_sq", &exp_avg_sq}};
  for (const auto& [name, other] : others) {
    check_tensor(kOp, name, *other, n_dims, {parameter.scalar_type()}, parameter);
    for (int64_t dim = 0; dim < n_dims; ++dim) {
      const std::string size = ".size(" + std::to_string(dim) + ")";
      check_equal(kOp, ("parameter" + size).c_str(), parameter.size(dim), (name + size).c_str(),
                  other->size(dim));
    }
  }
  check_tensor(kOp, "sizes", sizes, 1, {ScalarType::Double}, parameter);
  check_equal(kOp, "parameter.size(0)", parameter.size(0), "sizes.size(0)", sizes.size(0));
}

// True where rows lie one after another in memory without a gap, in whatever order of the other
// dimensions: as in contiguous tensors and in channels-last weights.
bool has_dense_rows(const Tensor& x) {
  const int64_t row = x.size(0) ? x.numel() / x.size(0) : 0;
  if (x.size(0) > 1 && x.stride(0) != row) return false;
  int64_t reach = 1;  // of the last value of a row; there are as many values only if none is shared
  for (int64_t dim = 1; dim < x.dim(); ++dim) reach += (x.size(dim) - 1) * x.stride(dim);
  return reach == row;
}

bool has_strides_of(const Tensor& x, const Tensor& other) {
  for (int64_t dim = 0; dim < x.dim(); ++dim)
    if (x.size(dim) > 1 && x.stride(dim) != other.stride(dim)) return false;
  return true;
}

template <typename T>
void step(Tensor& parameter, const Tensor& gradient, Tensor& exp_avg, Tensor& exp_avg_sq,
          const double* sizes, const AdamOptions<T>& options) {
  const auto moments = FASTMTE_ADAM(moments);
  const auto move = FASTMTE_ADAM(move);
  const int64_t n_values = parameter.numel(), row_size = n_values / parameter.size(0);
  T* p = static_cast<T*>(parameter.mutable_data_ptr());
  const T* g = static_cast<const T*>(gradient.const_data_ptr());
  T* mean = static_cast<T*>(exp_avg.mutable_data_ptr());
  T* square = static_cast<T*>(exp_avg_sq.mutable_data_ptr());
  const int64_t n_blocks = (n_values + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, n_blocks, 1, [&](int64_t first, int64_t last) {
    Tensor roots = torch::stable::new_empty(parameter, {std::min(kBlock, n_values)});
    T* root = static_cast<T*>(roots.mutable_data_ptr());
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kBlock, end = std::min(n_values, begin + kBlock);
      moments(g + begin, mean + begin, square + begin, root, end - begin, options);
      take_roots(end - begin == roots.numel() ? roots
                                              : torch::stable::narrow(roots, 0, 0, end - begin));
      for (int64_t at = begin; at < end;) {
        const int64_t row = at / row_size, n = std::min(end, (row + 1) * row_size) - at;
        move(p + at, mean + at, root + at - begin, n, static_cast<T>(sizes[row]), options);
        at += n;
      }
    }
  });
}

// See fastmte/training_ops.py. Values are independent: any number of threads gives the same bits.
void member_adam(Tensor parameter, const Tensor& gradient_, Tensor exp_avg, Tensor exp_avg_sq,
                 const Tensor& sizes_, double beta1, double beta2, double correction, double eps) {
  check_member_adam(parameter, gradient_, exp_avg, exp_avg_sq, sizes_);
  if (parameter.numel() == 0) return;
  const Tensor sizes = torch::stable::contiguous(sizes_);
  const double* size = sizes.const_data_ptr<double>();
  const bool is_plain = has_dense_rows(parameter) && has_strides_of(exp_avg, parameter) &&
                        has_strides_of(exp_avg_sq, parameter);
  Tensor own[] = {parameter, exp_avg, exp_avg_sq};
  Tensor gradient = gradient_;
  if (!is_plain) {
    for (Tensor& x : own) x = torch::stable::contiguous(x);
    gradient = torch::stable::contiguous(gradient);
  } else if (!has_strides_of(gradient, parameter)) {
    gradient = torch::stable::empty_like(parameter);
    torch::stable::copy_(gradient, gradient_);
  }
  if (parameter.scalar_type() == ScalarType::Float)
    step<float>(
        own[0], gradient, own[1], own[2], size,
        {static_cast<float>(1 - beta1), static_cast<float>(beta2), static_cast<float>(1 - beta2),
         static_cast<float>(correction), static_cast<float>(eps)});
  else
    step<double>(own[0], gradient, own[1], own[2], size,
                 {1 - beta1, beta2, 1 - beta2, correction, eps});
  if (is_plain) return;
  torch::stable::copy_(parameter, own[0]);
  torch::stable::copy_(exp_avg, own[1]);
  torch::stable::copy_(exp_avg_sq, own[2]);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("member_adam_", TORCH_BOX(&member_adam)); }

}  // namespace fastmte
