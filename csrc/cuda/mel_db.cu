// mel_db on CUDA: one warp a frame, from its samples to its decibels in shared memory.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "cuda/values.h"
#include "mel_db.h"

namespace fastmte {
namespace {

constexpr int kLanes = 32, kMostFrames = 8;  // of a block
constexpr int64_t kSharedBytes = 48 * 1024;

struct MelTables {
  const float* window;
  const float* weights;
  const int64_t* first_bins;
  const int64_t* splits;
  int64_t n_samples, size, hop, bands, offset, frames;
  float db_per_decade, floor_db;
};

__device__ float2 times(float2 a, float2 b) {
  return {multiply_add(a.x, b.x, -(a.y * b.y)), multiply_add(a.x, b.y, a.y * b.x)};
}

// One pass of a frame (mel_places.h), a butterfly a lane in turn. circle[m] = exp(-2 pi i m / N).
__device__ void run_pass(const FftPass& pass, const float2* circle, int64_t size, const float2* x,
                         float2* y) {
  for (int64_t i = threadIdx.x % kLanes; i < pass.n / pass.radix * pass.s; i += kLanes) {
    const Butterfly at = butterfly_of(pass, i / pass.s, i % pass.s);
    if (pass.radix == 4) {
      const float2 a = x[at.in], b = x[at.in + at.in_step];
      const float2 c = x[at.in + 2 * at.in_step], d = x[at.in + 3 * at.in_step];
      const float2 even = {a.x + c.x, a.y + c.y}, even_rest = {a.x - c.x, a.y - c.y};
      const float2 odd = {b.x + d.x, b.y + d.y}, odd_rest = {b.y - d.y, d.x - b.x};
      y[at.out] = {even.x + odd.x, even.y + odd.y};
      y[at.out + at.out_step] =
          times({even_rest.x + odd_rest.x, even_rest.y + odd_rest.y}, circle[at.twiddle_step]);
      y[at.out + 2 * at.out_step] =
          times({even.x - odd.x, even.y - odd.y}, circle[2 * at.twiddle_step]);
      y[at.out + 3 * at.out_step] =
          times({even_rest.x - odd_rest.x, even_rest.y - odd_rest.y}, circle[3 * at.twiddle_step]);
      continue;
    }
    for (int64_t k = 0; k < pass.radix; ++k) {
      float2 sum = {0, 0};
      for (int64_t r = 0; r < pass.radix; ++r) {
        const float2 turned =
            times(x[at.in + r * at.in_step], circle[r * k % pass.radix * (size / pass.radix)]);
        sum = {sum.x + turned.x, sum.y + turned.y};
      }
      y[at.out + k * at.out_step] = times(sum, circle[k * at.twiddle_step]);
    }
  }
}

// Bin k of the real frame's power spectrum from the transform z of its even + i odd samples, whose
// window is halved.
__device__ float power_of(const float2* z, const float2* circle, int64_t half, int64_t k) {
  const float2 a = z[k % half], b = z[(half - k) % half];
  const float2 even = {a.x + b.x, a.y - b.y};
  const float2 turned = times({a.y + b.y, b.x - a.x}, circle[k]);
  const float re = even.x + turned.x, im = even.y + turned.y;
  return multiply_add(re, re, im * im);
}

// The power of two that brings a frame's largest sample to about 1 where its power would leave the
// range of float32; else 1.
__device__ float scale_of(float largest) {
  if (largest == 0 || (largest > 1e-12f && largest < 1e12f)) return 1;
  const int exponent = -ilogbf(largest);
  return ldexpf(1.0f, exponent < -120 ? -120 : exponent > 120 ? 120 : exponent);
}

// Grid (songs * tiles of frames); a warp has its frame alone, with 2 N floats of shared memory.
__global__ void mel_kernel(const float* __restrict__ samples, MelTables tables,
                           float* __restrict__ out) {
  extern __shared__ float2 room[];  // the circle (N), then two transforms (N / 2) a warp
  const int64_t size = tables.size, half = size / 2;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int frames_a_block = blockDim.x / kLanes;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    float sine, cosine;
    sincospif(-2.0f * static_cast<float>(i) / static_cast<float>(size), &sine, &cosine);
    room[i] = {cosine, sine};
  }
  __syncthreads();

  const int64_t n_tiles = (tables.frames + frames_a_block - 1) / frames_a_block;
  const int64_t song = blockIdx.x / n_tiles;
  const int64_t frame = blockIdx.x % n_tiles * frames_a_block + warp;
  if (frame >= tables.frames) return;
  const int64_t begin = tables.offset + frame * tables.hop;
  const float* const from = samples + song * tables.n_samples;
  float2* x = room + size + warp * size;
  float2* y = x + half;
  float* const values = reinterpret_cast<float*>(x);
  float largest = 0;
  bool is_finite = true;
  for (int64_t i = lane; i < size; i += kLanes) {
    const int64_t at = begin + i;
    const float value = at >= 0 && at < tables.n_samples ? from[at] : 0.0f;
    values[i] = value;
    is_finite = is_finite && isfinite(value);
    largest = fmaxf(largest, fabsf(value));
  }
  for (int step = kLanes / 2; step > 0; step /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  is_finite = __all_sync(0xffffffffu, is_finite);
  const float scale = is_finite ? scale_of(largest) : 0.0f;
  for (int64_t i = lane; i < size; i += kLanes)
    values[i] = is_finite ? values[i] * scale * (0.5f * tables.window[i]) : 0.0f;
  __syncwarp();

  for (int64_t s = 1; s < half;) {
    const FftPass pass = fft_pass(half, s, 4);
    run_pass(pass, room, size, x, y);
    __syncwarp();
    float2* const read = x;
    x = y;
    y = read;
    s *= pass.radix;
  }
  float* const power = reinterpret_cast<float*>(y);
  for (int64_t k = lane; k <= half; k += kLanes) power[k] = power_of(x, room, half, k);
  __syncwarp();

  const float shift = -2 * tables.db_per_decade * log10f(is_finite ? scale : 1.0f);
  for (int64_t band = lane; band < tables.bands; band += kLanes) {
    float sum = 0;
    for (int64_t j = tables.splits[band]; j < tables.splits[band + 1]; ++j)
      sum = multiply_add(power[tables.first_bins[band] + j - tables.splits[band]],
                         tables.weights[j], sum);
    const float db = sum > 0 ? tables.db_per_decade * log10f(sum) + shift : tables.floor_db;
    out[(song * tables.bands + band) * tables.frames + frame] =
        is_finite ? fmaxf(db, tables.floor_db) : nanf("");
  }
}

// See fastmte/ops.py. Waits for the stream once, to read the tables it must not trust.
Tensor mel_db(const Tensor& samples, const Tensor& window, const Tensor& weights,
              const Tensor& first_bins, const Tensor& splits, int64_t hop, int64_t offset,
              int64_t frames, double db_per_decade, double floor_db) {
  const MelInputs inputs = mel_inputs(samples, window, weights, first_bins, splits, hop, frames,
                                      db_per_decade, floor_db);
  const torch::stable::accelerator::DeviceGuard guard(samples.get_device_index());
  const cudaStream_t stream = current_stream(samples);
  const MelTables tables{inputs.window.const_data_ptr<float>(),
                         inputs.weights.const_data_ptr<float>(),
                         inputs.first_bins.const_data_ptr<int64_t>(),
                         inputs.splits.const_data_ptr<int64_t>(),
                         inputs.n_samples,
                         inputs.size,
                         hop,
                         inputs.bands,
                         offset,
                         frames,
                         static_cast<float>(db_per_decade),
                         static_cast<float>(floor_db)};
  const auto first = to_host(tables.first_bins, inputs.bands, stream);
  const auto ends = to_host(tables.splits, inputs.bands + 1, stream);
  check_mel_bands(first.data(), ends.data(), inputs.bands, inputs.n_weights, inputs.size);

  Tensor out = torch::stable::new_empty(samples, {inputs.n_songs, inputs.bands, frames});
  if (out.numel() == 0) return out;
  const int64_t transform_bytes = inputs.size * static_cast<int64_t>(sizeof(float2));
  const int64_t room = kSharedBytes / transform_bytes - 1;
  FASTMTE_CHECK(room >= 1, "mel_db: window.size(0) must be at most ",
                kSharedBytes / 2 / static_cast<int64_t>(sizeof(float2)), " on CUDA, got ",
                inputs.size);
  const int64_t frames_a_block = room < kMostFrames ? room : kMostFrames;
  const int64_t n_tiles = (frames + frames_a_block - 1) / frames_a_block;
  mel_kernel<<<static_cast<unsigned>(inputs.n_songs * n_tiles),
               static_cast<unsigned>(kLanes * frames_a_block),
               static_cast<size_t>((1 + frames_a_block) * transform_bytes), stream>>>(
      inputs.samples.const_data_ptr<float>(), tables, out.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) { m.impl("mel_db", TORCH_BOX(&mel_db)); }

}  // namespace fastmte
