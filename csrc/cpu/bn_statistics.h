// Batch norm's statistics and what follows from them, on the CPU, in float64.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "check.h"
#include "pool_act.h"

namespace fastmte {

constexpr int64_t kRowsPerChunk = 128;  // short enough for float32 sums, whatever the threads

// Sums of chunks of rows, put together in the order of the chunks: the same bits on any number of
// threads.
class Chunks {
 public:
  Chunks(int64_t n_chunks, int64_t n_values)
      : n_chunks_(n_chunks), n_values_(n_values), values_(n_chunks * n_values, 0.0) {}

  double* operator[](int64_t chunk) { return values_.data() + chunk * n_values_; }

  std::vector<double> total() const {
    std::vector<double> sum(n_values_, 0.0);
    for (int64_t chunk = 0; chunk < n_chunks_; ++chunk)
      for (int64_t i = 0; i < n_values_; ++i) sum[i] += values_[chunk * n_values_ + i];
    return sum;
  }

 private:
  int64_t n_chunks_, n_values_;
  std::vector<double> values_;
};

// Mean and biased variance (C each) of x (N, C). `moments` gives them of a chunk of rows.
template <typename T, typename Moments>
void batch_statistics(const T* x, int64_t n_rows, int64_t channels, Moments moments, double* mean,
                      double* variance) {
  const int64_t n_chunks = (n_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  std::vector<double> means(n_chunks * channels), deviations(n_chunks * channels);
  torch::stable::parallel_for(0, n_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kRowsPerChunk;
      moments(x + first * channels, std::min(kRowsPerChunk, n_rows - first), channels,
              means.data() + chunk * channels, deviations.data() + chunk * channels);
    }
  });
  const auto n = [&](int64_t chunk) {
    return static_cast<double>(std::min(kRowsPerChunk, n_rows - chunk * kRowsPerChunk));
  };
  std::fill_n(mean, channels, 0.0);
  std::fill_n(variance, channels, 0.0);
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk)
    for (int64_t c = 0; c < channels; ++c) mean[c] += n(chunk) * means[chunk * channels + c];
  for (int64_t c = 0; c < channels; ++c) mean[c] /= static_cast<double>(n_rows);
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk)
    for (int64_t c = 0; c < channels; ++c) {
      const double apart = means[chunk * channels + c] - mean[c];
      variance[c] += deviations[chunk * channels + c] + n(chunk) * apart * apart;
    }
  for (int64_t c = 0; c < channels; ++c)  // NaN stays: std::max(0.0, NaN) would be 0
    variance[c] = (variance[c] < 0 ? 0.0 : variance[c]) / static_cast<double>(n_rows);
}

// What the kernels of maps of T compute in, and what the norm's parameters are.
template <typename T>
using ScalarOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <typename T>
T* mutable_data(Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Calls f with a value of the type of the maps x.
template <typename F>
void for_map_type(const Tensor& x, F f) {
  if (x.scalar_type() == ScalarType::Float)
    f(float{});
  else if (x.scalar_type() == ScalarType::BFloat16)
    f(torch::headeronly::BFloat16{});
  else
    f(double{});
}

// Mean and sum of squared deviations (C each) of rows (n, C).
template <typename T>
using MomentsFunction = void (*)(const T*, int64_t, int64_t, double*, double*);

// Adds sums over some rows of a gradient (n, C); see gradient_sums in bn_parts.h.
template <typename T>
using SumsFunction = void (*)(const T*, const T*, const T*, int64_t, int64_t, const ScalarOf<T>*,
                              Activation, double*);

// (x - mean) * gain + bias, one value a channel.
template <typename Scalar>
struct Affine {
  const Scalar *mean, *gain, *bias;
};

// of_gradient * g + of_x * (x - mean) + constant, one value a channel.
template <typename Scalar>
struct InputGradient {
  const Scalar *mean, *of_gradient, *of_x, *constant;
};

// Calls f(chunk, n_rows) for chunks of rows.
template <typename F>
void for_chunks(int64_t n_rows, F f) {
  const int64_t n_chunks = (n_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  torch::stable::parallel_for(0, n_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk)
      f(chunk, std::min(kRowsPerChunk, n_rows - chunk * kRowsPerChunk));
  });
}

// The sums (2, C) of g and of g (x - mean) over rows (N, C), g being the gradient before the
// activation.
template <typename T>
std::vector<double> sums_of_gradient(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                     int64_t channels, const double* mean, Activation activation,
                                     SumsFunction<T> add_sums) {
  const std::vector<ScalarOf<T>> centre(mean, mean + channels);
  Chunks sums((n_rows + kRowsPerChunk - 1) / kRowsPerChunk, 2 * channels);
  for_chunks(n_rows, [&](int64_t chunk, int64_t n) {
    const int64_t at = chunk * kRowsPerChunk * channels;
    add_sums(gradient + at, x + at, out + at, n, channels, centre.data(), activation, sums[chunk]);
  });
  return sums.total();
}

// What normalises, from the statistics. The bias makes up for the mean's rounding, which counts
// where the mean is large beside the deviation.
template <typename Scalar>
class Norm {
 public:
  Norm(const double* mean, const double* variance, const Scalar* weight, const Scalar* bias,
       double eps, int64_t channels)
      : mean_(mean, mean + channels), gain_(channels), bias_(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double gain = weight[c] / std::sqrt(variance[c] + eps);
      gain_[c] = static_cast<Scalar>(gain);
      bias_[c] = static_cast<Scalar>(bias[c] - (mean[c] - mean_[c]) * gain);
    }
  }

  Affine<Scalar> affine() const { return {mean_.data(), gain_.data(), bias_.data()}; }

 private:
  std::vector<Scalar> mean_, gain_, bias_;
};

// The gradients of batch norm, from the sums (2, C) of g and of g (x - mean) over all rows, with
// the mean as a Scalar has it.
//
// With s = 1 / sqrt(variance + eps): dbias = sum g, dweight = s sum g (x - mean), and
// dx = weight s (g - dbias / N - (x - mean) s dweight / N).
template <typename Scalar>
class NormGradient {
 public:
  NormGradient(const std::vector<double>& sums, const double* mean, const double* variance,
               const Scalar* weight, double eps, int64_t n_rows, Scalar* dweight, Scalar* dbias) {
    const auto channels = static_cast<int64_t>(sums.size() / 2);
    const auto n = static_cast<double>(n_rows);
    values_.resize(4 * channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double scale = 1.0 / std::sqrt(variance[c] + eps);
      const double rounding = mean[c] - static_cast<Scalar>(mean[c]);
      const double of_weight = (sums[channels + c] - rounding * sums[c]) * scale;
      const double of_x = -weight[c] * scale * scale * of_weight / n;
      dbias[c] = static_cast<Scalar>(sums[c]);
      dweight[c] = static_cast<Scalar>(of_weight);
      values_[c] = static_cast<Scalar>(mean[c]);
      values_[channels + c] = static_cast<Scalar>(weight[c] * scale);
      values_[2 * channels + c] = static_cast<Scalar>(of_x);
      values_[3 * channels + c] =
          static_cast<Scalar>(-weight[c] * scale * sums[c] / n - of_x * rounding);
    }
  }

  InputGradient<Scalar> input() const {
    const Scalar* at = values_.data();
    const auto channels = static_cast<int64_t>(values_.size() / 4);
    return {at, at + channels, at + 2 * channels, at + 3 * channels};
  }

 private:
  std::vector<Scalar> values_;
};

}  // namespace fastmte
