// What vgg_stem and resnet_stem accept, and their sizes, on every device.
//
// A stem is the first convolution of a network, with its pooling and activation: of one map a song
// that all K members share, but each member's own C channels out.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "check.h"
#include "host_device.h"

namespace fastmte {

struct StemSizes {
  int64_t n_members, n_songs, bands, frames, channels;  // of one member
  int64_t pooled_bands, pooled_frames;                  // of the output
};

// One call's arrays, contiguous, of one dtype.
template <typename T>
struct Stem {
  const T* mels;    // (B, M, F)
  const T* scale;   // (K), vgg_stem only
  const T* shift;   // (K), vgg_stem only
  const T* weight;  // (K * C, taps)
  const T* bias;    // (K * C)
  StemSizes sizes;
};

// Rows of the output are numbered member by member, song by song.
struct StemRow {
  int64_t member, song, row;
};

FASTMTE_HD inline StemRow stem_row(const StemSizes& sizes, int64_t at) {
  const int64_t map = at / sizes.pooled_bands;
  return {map / sizes.n_songs, map % sizes.n_songs, at % sizes.pooled_bands};
}

inline int64_t n_stem_rows(const StemSizes& sizes) {
  return sizes.n_members * sizes.n_songs * sizes.pooled_bands;
}

inline void check_stem_dtype(const char* op, ScalarType mels, ScalarType out) {
  const bool is_double = mels == ScalarType::Double;
  FASTMTE_CHECK(is_double ? out == ScalarType::Double
                          : out == ScalarType::Float || out == ScalarType::BFloat16,
                op, ": dtype must be ",
                is_double ? "Double for Double" : "Float or BFloat16 for Float", " mels, got ",
                torch::headeronly::toString(out));
}

// Checks the arguments that both stems have; `side` of the square kernel.
inline StemSizes check_stem(const char* op, const Tensor& mels, const Tensor& weight,
                            const Tensor& bias, int64_t n_members, int64_t side,
                            ScalarType out_dtype) {
  const ScalarType dtype = mels.scalar_type();
  check_tensor(op, "weight", weight, 4, {dtype}, mels);
  check_tensor(op, "bias", bias, 1, {dtype}, mels);
  FASTMTE_CHECK(weight.size(1) == 1 && weight.size(2) == side && weight.size(3) == side, op,
                ": weight must be (n, 1, ", side, ", ", side, "), got (n, ", weight.size(1), ", ",
                weight.size(2), ", ", weight.size(3), ")");
  FASTMTE_CHECK(weight.size(0) > 0 && weight.size(0) % n_members == 0, op,
                ": weight.size(0) must be a multiple of ", n_members,
                ", the number of members, got ", weight.size(0));
  check_equal(op, "weight.size(0)", weight.size(0), "bias.size(0)", bias.size(0));
  check_stem_dtype(op, dtype, out_dtype);
  return {n_members, mels.size(0), mels.size(1), mels.size(2), weight.size(0) / n_members, 0, 0};
}

inline StemSizes check_vgg_stem(const Tensor& mels, const Tensor& scale, const Tensor& shift,
                                const Tensor& weight, const Tensor& bias, ScalarType out_dtype) {
  constexpr const char* kOp = "vgg_stem";
  check_tensor(kOp, "mels", mels, 3, {ScalarType::Float, ScalarType::Double}, mels);
  check_tensor(kOp, "scale", scale, 1, {mels.scalar_type()}, mels);
  check_tensor(kOp, "shift", shift, 1, {mels.scalar_type()}, mels);
  check_at_least(kOp, "scale.size(0)", scale.size(0), 1);
  check_equal(kOp, "scale.size(0)", scale.size(0), "shift.size(0)", shift.size(0));
  check_at_least(kOp, "mels.size(1)", mels.size(1), 2);
  check_at_least(kOp, "mels.size(2)", mels.size(2), 4);
  StemSizes sizes = check_stem(kOp, mels, weight, bias, scale.size(0), 3, out_dtype);
  sizes.pooled_bands = sizes.bands / 2;
  sizes.pooled_frames = sizes.frames / 4;
  return sizes;
}

inline StemSizes check_resnet_stem(const Tensor& mels, const Tensor& weight, const Tensor& bias,
                                   int64_t members, ScalarType out_dtype) {
  constexpr const char* kOp = "resnet_stem";
  check_tensor(kOp, "mels", mels, 3, {ScalarType::Float, ScalarType::Double}, mels);
  check_at_least(kOp, "members", members, 1);
  check_at_least(kOp, "mels.size(1)", mels.size(1), 1);
  check_at_least(kOp, "mels.size(2)", mels.size(2), 1);
  StemSizes sizes = check_stem(kOp, mels, weight, bias, members, 7, out_dtype);
  sizes.pooled_bands = (sizes.bands + 3) / 4;  // halved and rounded up, twice
  sizes.pooled_frames = (sizes.frames + 3) / 4;
  return sizes;
}

// The arguments, made contiguous: of resnet_stem without scale and shift.
class StemInputs {
 public:
  StemInputs(const Tensor& mels, const Tensor* scale, const Tensor* shift, const Tensor& weight,
             const Tensor& bias)
      : mels_(torch::stable::contiguous(mels)),
        weight_(torch::stable::contiguous(weight)),
        bias_(torch::stable::contiguous(bias)) {
    if (scale) scale_ = torch::stable::contiguous(*scale);
    if (shift) shift_ = torch::stable::contiguous(*shift);
  }

  template <typename T>
  Stem<T> arrays(const StemSizes& sizes) const {
    return {mels_.const_data_ptr<T>(),
            scale_.defined() ? scale_.const_data_ptr<T>() : nullptr,
            shift_.defined() ? shift_.const_data_ptr<T>() : nullptr,
            weight_.const_data_ptr<T>(),
            bias_.const_data_ptr<T>(),
            sizes};
  }

 private:
  Tensor mels_, scale_, shift_, weight_, bias_;
};

inline Tensor empty_stem_output(const Tensor& mels, const StemSizes& sizes, ScalarType dtype) {
  return torch::stable::new_empty(
      mels,
      {sizes.n_members, sizes.n_songs, sizes.pooled_bands, sizes.pooled_frames, sizes.channels},
      dtype);
}

}  // namespace fastmte
