// What every CUDA operator does around its launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "check.h"

namespace fastmte {

inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Waits for `stream`, then returns the first n values of a device array.
template <typename T>
std::vector<T> to_host(const T* values, int64_t n, cudaStream_t stream) {
  std::vector<T> host(n);
  STD_CUDA_CHECK(
      cudaMemcpyAsync(host.data(), values, n * sizeof(T), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return host;
}

// The smallest position that any thread found at fault. An integer minimum: its value does not
// depend on which thread comes first.
class LeastFault {
 public:
  static constexpr int64_t kNone = 0x7f7f7f7f7f7f7f7f;

  LeastFault(const Tensor& like, cudaStream_t stream)
      : value_(torch::stable::new_empty(like, {1}, ScalarType::Long)), stream_(stream) {
    STD_CUDA_CHECK(cudaMemsetAsync(on_device(), 0x7f, sizeof(int64_t), stream));
  }

  long long* on_device() const {
    return reinterpret_cast<long long*>(value_.mutable_data_ptr<int64_t>());
  }

  // Waits for the stream.
  int64_t read() const { return to_host(value_.const_data_ptr<int64_t>(), 1, stream_)[0]; }

 private:
  Tensor value_;
  cudaStream_t stream_;
};

// Marks the first of n values that is NaN or infinite. Any grid.
template <typename T>
__global__ void find_not_finite(const T* __restrict__ x, int64_t n, long long* fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    if (!isfinite(x[i])) atomicMin(fault, static_cast<long long>(i));
}

// Fails for the first value of a (n, m) matrix that is NaN or infinite.
template <typename T>
void check_finite(const char* op, const char* name, const Tensor& x, cudaStream_t stream) {
  if (x.numel() == 0) return;
  constexpr int64_t kThreads = 256, kMaxBlocks = 4096;
  const int64_t blocks = (x.numel() + kThreads - 1) / kThreads;
  const LeastFault fault(x, stream);
  find_not_finite<<<static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks), kThreads, 0,
                    stream>>>(x.const_data_ptr<T>(), x.numel(), fault.on_device());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const int64_t at = fault.read();
  if (at != LeastFault::kNone)
    fail_not_finite(op, name, to_host(x.const_data_ptr<T>() + at, 1, stream)[0], at, x.size(1));
}

}  // namespace fastmte
