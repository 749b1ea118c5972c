// The steps of mel_db's Fourier transform, on every device.
//
// A real frame of N samples is a complex one of H = N / 2, which goes through passes (Stockham):
// with s the product of the radices before and n = H / s, a pass of radix R does
//
//   y[q + s (R p + k)] = w_n^(p k) sum_r x[q + s (p + r n / R)] w_R^(r k),  p < n / R, q < s
//
// for all k < R, so that the last pass leaves the values in their order. w_m = exp(-2 pi i / m).
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fastmte {

struct FftPass {
  int64_t n, s, radix;
};

// Of one butterfly of a pass: where its inputs and outputs lie, and their twiddle w_N^(2 s p k),
// whose index is below N.
struct Butterfly {
  int64_t in, in_step, out, out_step, twiddle_step;
};

FASTMTE_HD inline Butterfly butterfly_of(const FftPass& pass, int64_t p, int64_t q) {
  return {q + pass.s * p, pass.s * (pass.n / pass.radix), q + pass.s * pass.radix * p, pass.s,
          2 * pass.s * p};
}

// The pass at stride s: of radix `largest`, a power of two, or the largest power of 4 or 2 below it
// that divides what is left, or all that is left where that is odd.
FASTMTE_HD inline FftPass fft_pass(int64_t half, int64_t s, int64_t largest) {
  const int64_t n = half / s;
  int64_t radix = largest;
  while (radix > 1 && n % radix) radix /= radix > 4 ? 4 : 2;
  return {n, s, radix > 1 ? radix : n};
}

}  // namespace fastmte
