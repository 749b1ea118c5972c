// crop_mels on the CPU: copies rows of frames, converting float16 on the way.
#include "crop_mels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "simd.h"

namespace fastmte {
namespace {

using Half = torch::headeronly::Half;
constexpr int64_t kRowsPerTask = 32;

FASTMTE_INLINE bool copy_body(const float* source, float* target, int64_t n) {
  std::memcpy(target, source, sizeof(float) * n);
  return is_finite_body(target, n);
}

FASTMTE_INLINE bool copy_body(const Half* source, float* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
  return is_finite_body(target, n);
}

template <typename T>
bool copy_baseline(const T* source, float* target, int64_t n) {
  return copy_body(source, target, n);
}

#ifdef FASTMTE_HAS_AVX2
FASTMTE_CLONE_FOR_AVX2 bool copy_avx2(const float* source, float* target, int64_t n) {
  return copy_body(source, target, n);
}

FASTMTE_CLONE_FOR_AVX2 bool copy_avx2(const Half* source, float* target, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(halves));
  }
  for (; i < n; ++i) target[i] = static_cast<float>(source[i]);
  return is_finite_body(target, n);
}
#endif

// Copies n values and says whether all of them are finite.
template <typename T>
bool copy(const T* source, float* target, int64_t n) {
#ifdef FASTMTE_HAS_AVX2
  if (has_avx2()) return copy_avx2(source, target, n);
#endif
  return copy_baseline(source, target, n);
}

// Copies one band of one crop, going round a song that is shorter than the crop.
template <typename T>
bool copy_row(const T* mels, const CropSource& source, int64_t band, int64_t frames,
              float* target) {
  const T* row = mels + source.offset + band * source.length;
  int64_t from = source.start % source.length;
  bool is_finite = true;
  for (int64_t done = 0; done < frames; from = 0) {
    const int64_t n = std::min(frames - done, source.length - from);
    is_finite = copy(row + from, target + done, n) && is_finite;
    done += n;
  }
  return is_finite;
}

template <typename T>
void crop(const T* mels, const CropTables& tables, float* crops) {
  const int64_t n_rows = tables.n_crops * tables.bands;
  std::atomic<int64_t> bad_row{n_rows};
  torch::stable::parallel_for(0, n_rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const CropSource source = crop_source(tables, row / tables.bands);
      float* target = crops + row * tables.frames;
      if (!copy_row(mels, source, row % tables.bands, tables.frames, target))
        keep_least(bad_row, row);
    }
  });
  if (bad_row == n_rows) return;
  const float* bad = crops + bad_row * tables.frames;
  const int64_t frame =
      std::find_if(bad, bad + tables.frames, [](float x) { return !std::isfinite(x); }) - bad;
  const CropSource source = crop_source(tables, bad_row / tables.bands);
  fail_crop_not_finite(source, crop_position(source, bad_row % tables.bands, frame), bad[frame]);
}

// See fastmte/ops.py. Rows are independent: any number of threads gives the same bits.
Tensor crop_mels(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                 const Tensor& index, const std::optional<Tensor>& starts, int64_t frames,
                 int64_t bands) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, frames, bands);
  const CropTables& tables = inputs.tables;
  check_crop_tables(tables);

  Tensor crops = torch::stable::new_empty(mels, {tables.n_crops, bands, frames}, ScalarType::Float);
  float* target = crops.mutable_data_ptr<float>();
  if (mels.scalar_type() == ScalarType::Half)
    crop(static_cast<const Half*>(inputs.mels.const_data_ptr()), tables, target);
  else
    crop(inputs.mels.const_data_ptr<float>(), tables, target);
  return crops;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("crop_mels", TORCH_BOX(&crop_mels)); }

}  // namespace fastmte
