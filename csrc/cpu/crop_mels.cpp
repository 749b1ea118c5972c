// crop_mels on the CPU: copies rows of frames, converting float16 on the way.
#include "crop_mels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>

#include "copy_run.h"

namespace fastmte {
namespace {

constexpr int64_t kRowsPerTask = 32;

// Copies one band of a song that is shorter than the crop, round and round.
template <typename T>
bool copy_round(const T* band, const CropSource& source, int64_t frames, float* target) {
  int64_t from = source.start % source.length;
  bool is_finite = true;
  for (int64_t done = 0; done < frames; from = 0) {
    const int64_t n = std::min(frames - done, source.length - from);
    is_finite = copy<T>({band + from, band, n, false}, target + done) && is_finite;
    done += n;
  }
  return is_finite;
}

// Copies rows [begin, end) and returns the first of those among which a value is not finite.
template <typename T>
int64_t crop_rows(const T* mels, const CropTables& tables, float* crops, bool is_large,
                  int64_t begin, int64_t end) {
  const auto first = [&](int64_t row) {
    const CropSource source = crop_source(tables, row / tables.bands);
    return mels + source.offset + row % tables.bands * source.length + source.start;
  };
  int64_t bad_row = tables.n_crops * tables.bands;
  for (int64_t row = begin, n_rows; row < end; row += n_rows) {
    const int64_t frames = tables.frames, crop = row / tables.bands;
    const CropSource source = crop_source(tables, crop);
    float* target = crops + row * frames;
    n_rows = 1;
    bool is_finite;
    if (source.length < frames) {
      const T* band = mels + source.offset + row % tables.bands * source.length;
      is_finite = copy_round(band, source, frames, target);
    } else {
      // The bands of a song that is just as long as the crop follow one another.
      if (source.length == frames) n_rows = std::min(end, (crop + 1) * tables.bands) - row;
      const T* from = first(row);
      const T* next = row + n_rows < end ? first(row + n_rows) : from;
      is_finite = copy<T>({from, next, n_rows * frames, is_large}, target);
    }
    if (!is_finite) bad_row = std::min(bad_row, row);
  }
  finish_copies();
  return bad_row;
}

template <typename T>
void crop(const T* mels, const CropTables& tables, float* crops) {
  const int64_t n_rows = tables.n_crops * tables.bands, n_values = n_rows * tables.frames;
  const bool is_large = n_values * static_cast<int64_t>(sizeof(float)) >= kLargeBytes;
  std::atomic<int64_t> bad_row{n_rows};
  torch::stable::parallel_for(0, n_rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    keep_least(bad_row, crop_rows(mels, tables, crops, is_large, begin, end));
  });
  if (bad_row == n_rows) return;
  const float* bad = std::find_if(crops + bad_row * tables.frames, crops + n_values,
                                  [](float x) { return !std::isfinite(x); });
  const int64_t row = (bad - crops) / tables.frames, frame = (bad - crops) % tables.frames;
  const CropSource source = crop_source(tables, row / tables.bands);
  fail_crop_not_finite(source, crop_position(source, row % tables.bands, frame), *bad);
}

// Rows are independent: any number of threads gives the same bits.
void crop(const CropInputs& inputs, float* crops) {
  check_crop_tables(inputs.tables);
  if (inputs.mels.scalar_type() == ScalarType::Half)
    crop(static_cast<const Half*>(inputs.mels.const_data_ptr()), inputs.tables, crops);
  else
    crop(inputs.mels.const_data_ptr<float>(), inputs.tables, crops);
}

// Lets new memory come in pages of 2 MB where it is large: the faults of 4 KB ones would take
// several times as long as the crops.
void use_large_pages([[maybe_unused]] float* memory, [[maybe_unused]] int64_t n_bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + n_bytes;
  if (n_bytes >= kLargeBytes) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// See fastmte/ops.py.
Tensor crop_mels(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                 const Tensor& index, const std::optional<Tensor>& starts, int64_t frames,
                 int64_t bands) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, frames, bands);
  const int64_t n_crops = inputs.tables.n_crops;
  Tensor crops = torch::stable::new_empty(mels, {n_crops, bands, frames}, ScalarType::Float);
  float* target = crops.mutable_data_ptr<float>();
  use_large_pages(target, n_crops * bands * frames * static_cast<int64_t>(sizeof(float)));
  crop(inputs, target);
  return crops;
}

void crop_mels_into(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                    const Tensor& index, const std::optional<Tensor>& starts, Tensor crops) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, crops);
  Tensor own = torch::stable::contiguous(crops);
  crop(inputs, own.mutable_data_ptr<float>());
  if (own.const_data_ptr() != crops.const_data_ptr()) torch::stable::copy_(crops, own);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("crop_mels", TORCH_BOX(&crop_mels));
  m.impl("crop_mels.into", TORCH_BOX(&crop_mels_into));
}

}  // namespace fastmte
