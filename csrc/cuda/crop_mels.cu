// crop_mels on CUDA: one block a row of frames.
#include <cuda_fp16.h>
#include <torch/csrc/stable/library.h>

#include "crop_mels.h"
#include "cuda/launch.h"

namespace fastmte {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBadTables = -1;  // below every position, so it speaks first

// Grid (n_crops * bands). `fault`: kBadTables, or the least position in `crops` whose value is
// not finite. Neighbouring threads read neighbouring frames.
template <typename T>
__global__ void crop_kernel(const T* __restrict__ mels, const CropTables tables,
                            float* __restrict__ crops, long long* fault) {
  const int64_t row = blockIdx.x;
  const int64_t crop = row / tables.bands;
  if (!is_valid(tables, crop)) {
    if (threadIdx.x == 0) atomicMin(fault, static_cast<long long>(kBadTables));
    return;
  }
  const CropSource source = crop_source(tables, crop);
  for (int64_t frame = threadIdx.x; frame < tables.frames; frame += kThreads) {
    const float value = static_cast<float>(mels[crop_position(source, row % tables.bands, frame)]);
    const int64_t at = row * tables.frames + frame;
    crops[at] = value;
    if (!isfinite(value)) atomicMin(fault, static_cast<long long>(at));
  }
}

template <typename T>
void launch(const T* mels, const CropTables& tables, float* crops, const LeastFault& fault,
            cudaStream_t stream) {
  const unsigned n_rows = static_cast<unsigned>(tables.n_crops * tables.bands);
  crop_kernel<<<n_rows, kThreads, 0, stream>>>(mels, tables, crops, fault.on_device());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Says what the kernel found wrong, from the tables brought to the host.
void fail_at(int64_t fault, CropTables tables, const float* crops, cudaStream_t stream) {
  const auto offsets = to_host(tables.offsets, tables.n_songs, stream);
  const auto lengths = to_host(tables.lengths, tables.n_songs, stream);
  const auto index = to_host(tables.index, tables.n_crops, stream);
  std::vector<int64_t> starts;
  if (tables.starts) starts = to_host(tables.starts, tables.n_crops, stream);
  tables.offsets = offsets.data();
  tables.lengths = lengths.data();
  tables.index = index.data();
  tables.starts = tables.starts ? starts.data() : nullptr;
  check_crop_tables(tables);

  const int64_t row = fault / tables.frames, frame = fault % tables.frames;
  const CropSource source = crop_source(tables, row / tables.bands);
  fail_crop_not_finite(source, crop_position(source, row % tables.bands, frame),
                       to_host(crops + fault, 1, stream)[0]);
}

// Waits for the stream once, to read whether anything was refused.
void crop(const CropInputs& inputs, float* target) {
  const CropTables& tables = inputs.tables;
  if (tables.n_crops == 0) return;
  const cudaStream_t stream = current_stream(inputs.mels);
  const LeastFault fault(inputs.mels, stream);
  if (inputs.mels.scalar_type() == ScalarType::Half)
    launch(static_cast<const __half*>(inputs.mels.const_data_ptr()), tables, target, fault, stream);
  else
    launch(inputs.mels.const_data_ptr<float>(), tables, target, fault, stream);
  if (const int64_t at = fault.read(); at != LeastFault::kNone) fail_at(at, tables, target, stream);
}

// See fastmte/ops.py.
Tensor crop_mels(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                 const Tensor& index, const std::optional<Tensor>& starts, int64_t frames,
                 int64_t bands) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, frames, bands);
  const torch::stable::accelerator::DeviceGuard guard(mels.get_device_index());
  Tensor crops =
      torch::stable::new_empty(mels, {inputs.tables.n_crops, bands, frames}, ScalarType::Float);
  crop(inputs, crops.mutable_data_ptr<float>());
  return crops;
}

void crop_mels_into(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                    const Tensor& index, const std::optional<Tensor>& starts, Tensor crops) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, crops);
  const torch::stable::accelerator::DeviceGuard guard(mels.get_device_index());
  Tensor own = torch::stable::contiguous(crops);
  crop(inputs, own.mutable_data_ptr<float>());
  if (own.const_data_ptr() != crops.const_data_ptr()) torch::stable::copy_(crops, own);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) {
  m.impl("crop_mels", TORCH_BOX(&crop_mels));
  m.impl("crop_mels.into", TORCH_BOX(&crop_mels_into));
}

}  // namespace fastmte
