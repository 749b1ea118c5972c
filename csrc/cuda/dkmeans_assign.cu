// dkmeans_assign of CUDA tensors: the CPU deals the points.
//
// Every turn waits for the one before, so a device would wait for its whole grid about twice a
// round of K turns, some 10 us: 56 points would take it 150 us and more, the CPU 20. With many
// points the CPU's scan measures a few percent of the distances, and a device would have to prune
// as well to keep up (100,000 x 512 heavy-tailed points: 1.5 s of the CPU). What it could gain is
// isotropic points of hundreds of features, with n D K beyond 1e8: by estimate, and by none that
// was run, some ten times at 20,000 x 512. The copies are 8 n D bytes there and 16 n back: about
// 50 us for few points, 1 % of the time for many.
#include <torch/csrc/stable/library.h>

#include <array>
#include <tuple>

#include "cuda/launch.h"
#include "dkmeans_assign.h"

namespace fastmte {
namespace {

Tensor on_host(const Tensor& x) {
  Tensor host = torch::stable::empty(x.sizes(), x.scalar_type(), std::nullopt,
                                     torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return torch::stable::copy_(host, x);
}

Tensor on_device(const Tensor& host, const Tensor& like) {
  Tensor x = torch::stable::new_empty(like, host.sizes());
  return torch::stable::copy_(x, host);
}

// See fastmte/ops.py. All is checked here: an error of the CPU's operator would lose its text.
std::tuple<Tensor, Tensor, Tensor> dkmeans_assign_counted(const Tensor& points, const Tensor& seeds,
                                                          double tie_tol, bool last_two) {
  check_dkmeans_assign(points, seeds, tie_tol, last_two);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const Tensor host_seeds = on_host(torch::stable::contiguous(seeds));
  const int64_t n_seeds = seeds.size(seeds.dim() - 1);
  check_seeds(host_seeds.const_data_ptr<int64_t>(), seeds.dim() == 2 ? seeds.size(0) : 1, n_seeds,
              points.size(0), seeds.dim());
  const Tensor rows = torch::stable::contiguous(points);
  check_finite<double>("dkmeans_assign", "points", rows, current_stream(rows));

  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(on_host(rows)), from(host_seeds), from(tie_tol),
                                    from(last_two)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("fastmte::dkmeans_assign", "counted", stack.data(), TORCH_ABI_VERSION));
  const auto result = [&](int i) {
    return on_device(torch::stable::detail::to<Tensor>(stack[i]), seeds);
  };
  return {result(0), result(1), result(2)};
}

std::tuple<Tensor, Tensor> dkmeans_assign(const Tensor& points, const Tensor& seeds, double tie_tol,
                                          bool last_two) {
  const auto [labels, order, counts] = dkmeans_assign_counted(points, seeds, tie_tol, last_two);
  return {labels, order};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) {
  m.impl("dkmeans_assign", TORCH_BOX(&dkmeans_assign));
  m.impl("dkmeans_assign.counted", TORCH_BOX(&dkmeans_assign_counted));
}

}  // namespace fastmte
