// The VGG's first block in training on the CPU: patch_products and vgg_stem_argmax forward,
// vgg_stem_sums backward.
#include "vgg_stem_train.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <tuple>
#include <vector>

#include "check.h"
#include "cpu/bn_statistics.h"
#include "pool_act.h"

namespace fastmte {
namespace {

// One call's arrays, contiguous: x (B, M, F), K members' scale and shift, and weight (K * C, 9)
// and bias with the norm folded in.
template <typename Scalar>
struct TrainStem {
  const Scalar *x, *scale, *shift, *weight, *bias;
  int64_t n_songs, bands, frames, channels;
};

// One kind of vector's functions for results of T; see vgg_stem_train_kernel.h.
template <typename T, typename Scalar = ScalarOf<T>>
struct VggStemTrainKernels {
  void (*rows)(const TrainStem<Scalar>&, T*, uint8_t*, int64_t, int64_t);
  void (*song_sums)(const T*, const T*, const uint8_t*, const Scalar*, int64_t, int64_t, int64_t,
                    double*);
};

}  // namespace
}  // namespace fastmte

#define FASTMTE_KERNELS "cpu/vgg_stem_train_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

template <typename T>
VggStemTrainKernels<T> kernels_for() {
  if constexpr (std::is_same_v<T, double>)
    return float64::vgg_stem_train_kernels<double>();
  else
    return FASTMTE_CHOOSE(vgg_stem_train_kernels<T>());
}

// The lanes' sum of a[i] * b[i].
double dot(const double* a, const double* b, int64_t n) {
  using float64::Vector;
  constexpr int kUnrolled = 4 * float64::kWidth;
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + kUnrolled <= n; i += kUnrolled)
    for (int v = 0; v < 4; ++v)
      sums[v] +=
          float64::load(a + i + v * float64::kWidth) * float64::load(b + i + v * float64::kWidth);
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0;
  for (int lane = 0; lane < float64::kWidth; ++lane) sum += all[lane];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Adds one song's products (9, 9), the lower triangle, row by row of the map.
template <typename T>
void add_patch_products(const T* mel, int64_t bands, int64_t frames, double* sums) {
  const int64_t stride = frames + 2;
  std::vector<double> values(3 * stride, 0.0);
  const auto row = [&](int64_t band) { return values.data() + (band + 3) % 3 * stride; };
  const auto fill = [&](int64_t band) {
    double* to = row(band) + 1;
    if (band < bands)
      std::copy_n(mel + band * frames, frames, to);
    else
      std::fill_n(to, frames, 0.0);
  };
  fill(0);
  for (int64_t band = 0; band < bands; ++band) {
    fill(band + 1);
    for (int i = 0; i < 9; ++i)
      for (int j = 0; j <= i; ++j)
        sums[i * 9 + j] +=
            dot(row(band + i / 3 - 1) + i % 3, row(band + j / 3 - 1) + j % 3, frames);
  }
}

// See fastmte/reference_training.py. Songs' sums are added in their order.
Tensor patch_products(const Tensor& x_) {
  check_stem_maps("patch_products", x_);
  const Tensor x = torch::stable::contiguous(x_);
  const int64_t n_songs = x.size(0), bands = x.size(1), frames = x.size(2);
  Chunks songs(n_songs, 81);
  for_map_type(x, [&](auto like) {
    using T = decltype(like);
    torch::stable::parallel_for(0, n_songs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t song = begin; song < end; ++song)
        add_patch_products(data<T>(x) + song * bands * frames, bands, frames, songs[song]);
    });
  });
  Tensor products = torch::stable::new_empty(x, {9, 9}, ScalarType::Double);
  double* to = mutable_data<double>(products);
  const std::vector<double> sums = songs.total();
  for (int i = 0; i < 9; ++i)
    for (int j = 0; j < 9; ++j) to[i * 9 + j] = sums[std::max(i, j) * 9 + std::min(i, j)];
  return products;
}

// See fastmte/training_ops.py. Rows are independent: any number of threads gives the same bits.
std::tuple<Tensor, Tensor> vgg_stem_argmax(const Tensor& x_, const Tensor& scale_,
                                           const Tensor& shift_, const Tensor& weight_,
                                           const Tensor& bias_, ScalarType dtype) {
  check_vgg_stem_argmax(x_, scale_, shift_, weight_, bias_, dtype);
  const Tensor x = torch::stable::contiguous(x_), scale = torch::stable::contiguous(scale_),
               shift = torch::stable::contiguous(shift_),
               weight = torch::stable::contiguous(weight_), bias = torch::stable::contiguous(bias_);
  const int64_t n_members = scale.size(0), n_songs = x.size(0), bands = x.size(1),
                frames = x.size(2), channels = weight.size(0) / n_members;
  const std::vector<int64_t> shape{n_members, n_songs, bands / 2, frames / 4, channels};
  Tensor out = torch::stable::new_empty(x, shape, dtype);
  Tensor argmax = torch::stable::new_empty(x, shape, ScalarType::Byte);
  for_map_type(out, [&](auto like) {
    using T = decltype(like);
    using Scalar = ScalarOf<T>;
    const VggStemTrainKernels<T> kernels = kernels_for<T>();
    const TrainStem<Scalar> stem{data<Scalar>(x),
                                 data<Scalar>(scale),
                                 data<Scalar>(shift),
                                 data<Scalar>(weight),
                                 data<Scalar>(bias),
                                 n_songs,
                                 bands,
                                 frames,
                                 channels};
    T* to = mutable_data<T>(out);
    uint8_t* points = mutable_data<uint8_t>(argmax);
    torch::stable::parallel_for(
        0, n_members * n_songs * (bands / 2), bands / 2,
        [&](int64_t begin, int64_t end) { kernels.rows(stem, to, points, begin, end); });
  });
  return {out, argmax};
}

// A song's sums are float32 along a row and float64 from there on, in the order of the songs: any
// number of threads gives the same bits.
Tensor vgg_stem_sums(const Tensor& gradient_, const Tensor& out_, const Tensor& argmax_,
                     const Tensor& x_) {
  check_vgg_stem_sums(gradient_, out_, argmax_, x_);
  const Tensor gradient = torch::stable::contiguous(gradient_),
               out = torch::stable::contiguous(out_), argmax = torch::stable::contiguous(argmax_),
               x = torch::stable::contiguous(x_);
  const int64_t n_members = out.size(0), n_songs = out.size(1), channels = out.size(4);
  const int64_t bands = x.size(1), frames = x.size(2), size = out.size(2) * out.size(3) * channels;
  Tensor sums = torch::stable::new_empty(x, {n_members * channels, 19}, ScalarType::Double);
  Chunks chunks(n_members * n_songs, channels * 19);
  for_map_type(out, [&](auto like) {
    using T = decltype(like);
    const VggStemTrainKernels<T> kernels = kernels_for<T>();
    torch::stable::parallel_for(0, n_members * n_songs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at)
        kernels.song_sums(data<T>(gradient) + at * size, data<T>(out) + at * size,
                          data<uint8_t>(argmax) + at * size,
                          data<ScalarOf<T>>(x) + at % n_songs * bands * frames, bands, frames,
                          channels, chunks[at]);
    });
  });
  double* to = mutable_data<double>(sums);
  std::fill_n(to, n_members * channels * 19, 0.0);
  for (int64_t at = 0; at < n_members * n_songs; ++at)
    for (int64_t i = 0; i < channels * 19; ++i)
      to[at / n_songs * channels * 19 + i] += chunks[at][i];
  return sums;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("patch_products", TORCH_BOX(&patch_products));
  m.impl("vgg_stem_argmax", TORCH_BOX(&vgg_stem_argmax));
  m.impl("vgg_stem_sums", TORCH_BOX(&vgg_stem_sums));
}

}  // namespace fastmte
