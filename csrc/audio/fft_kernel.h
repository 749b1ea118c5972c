// The passes of mel_places.h, and the powers of real frames, for one kind of vector;
// mel_db_kernel.h includes it for each.
//
// Complex value i of a lane is at [2 i] and [2 i + 1], in vectors.

namespace fastmte::FASTMTE_ISA {
namespace {

struct Complex {
  Vector re, im;
};

FASTMTE_TARGET FASTMTE_INLINE Complex load_complex(const float* x, int64_t i) {
  return {load(x + 2 * i * kWidth), load(x + (2 * i + 1) * kWidth)};
}

FASTMTE_TARGET FASTMTE_INLINE void store_complex(float* x, int64_t i, Complex value) {
  store(x + 2 * i * kWidth, value.re);
  store(x + (2 * i + 1) * kWidth, value.im);
}

FASTMTE_TARGET FASTMTE_INLINE Complex add(Complex a, Complex b) {
  return {a.re + b.re, a.im + b.im};
}

FASTMTE_TARGET FASTMTE_INLINE Complex subtract(Complex a, Complex b) {
  return {a.re - b.re, a.im - b.im};
}

FASTMTE_TARGET FASTMTE_INLINE Complex times(Complex a, float c, float s) {
  const Vector cosine = broadcast(c), sine = broadcast(s);
  return {fma(a.re, cosine, -(a.im * sine)), fma(a.re, sine, a.im * cosine)};
}

// -i a
FASTMTE_TARGET FASTMTE_INLINE Complex turned(Complex a) { return {a.im, -a.re}; }

FASTMTE_TARGET FASTMTE_INLINE void transform(Complex (&x)[2]) {
  const Complex sum = add(x[0], x[1]);
  x[1] = subtract(x[0], x[1]);
  x[0] = sum;
}

FASTMTE_TARGET FASTMTE_INLINE void transform(Complex (&x)[4]) {
  const Complex even = add(x[0], x[2]), even_rest = subtract(x[0], x[2]);
  const Complex odd = add(x[1], x[3]), odd_rest = turned(subtract(x[1], x[3]));
  x[0] = add(even, odd);
  x[1] = add(even_rest, odd_rest);
  x[2] = subtract(even, odd);
  x[3] = subtract(even_rest, odd_rest);
}

// cos and -sin of 2 pi m / 16.
constexpr float kCosine16[] = {1,  0.923879533f,  0.707106781f,  0.382683432f,
                               0,  -0.382683432f, -0.707106781f, -0.923879533f,
                               -1, -0.923879533f};
constexpr float kSine16[] = {0,  -0.382683432f, -0.707106781f, -0.923879533f,
                             -1, -0.923879533f, -0.707106781f, -0.382683432f,
                             0,  0.382683432f};

// 16 as 4 x 4: transforms of every fourth value, twiddles, transforms across.
FASTMTE_TARGET FASTMTE_INLINE void transform(Complex (&x)[16]) {
  Complex rows[4][4];
  FASTMTE_UNROLL
  for (int i = 0; i < 4; ++i) {
    Complex column[] = {x[i], x[i + 4], x[i + 8], x[i + 12]};
    transform(column);
    FASTMTE_UNROLL
    for (int k = 0; k < 4; ++k)
      rows[k][i] = i * k == 0   ? column[k]
                   : i * k == 4 ? turned(column[k])
                                : times(column[k], kCosine16[i * k], kSine16[i * k]);
  }
  FASTMTE_UNROLL
  for (int k = 0; k < 4; ++k) {
    transform(rows[k]);
    FASTMTE_UNROLL
    for (int j = 0; j < 4; ++j) x[k + 4 * j] = rows[k][j];
  }
}

template <int kRadix>
FASTMTE_TARGET inline void run_radix(const MelPlan& plan, const FftPass& pass, const float* from,
                                     float* to) {
  for (int64_t p = 0; p < pass.n / kRadix; ++p) {
    for (int64_t q = 0; q < pass.s; ++q) {
      const Butterfly at = butterfly_of(pass, p, q);
      Complex x[kRadix];
      FASTMTE_UNROLL
      for (int r = 0; r < kRadix; ++r) x[r] = load_complex(from, at.in + r * at.in_step);
      transform(x);
      store_complex(to, at.out, x[0]);
      FASTMTE_UNROLL
      for (int k = 1; k < kRadix; ++k) {
        const int64_t twiddle = k * at.twiddle_step;
        if (p > 0) x[k] = times(x[k], plan.cosine[twiddle], plan.sine[twiddle]);
        store_complex(to, at.out + k * at.out_step, x[k]);
      }
    }
  }
}

// Any radix, by its definition: O(radix) operations a value.
FASTMTE_TARGET inline void run_any_radix(const MelPlan& plan, const FftPass& pass,
                                         const float* from, float* to) {
  const int64_t radix = pass.radix, turn = plan.size / radix;
  for (int64_t p = 0; p < pass.n / radix; ++p) {
    for (int64_t q = 0; q < pass.s; ++q) {
      const Butterfly at = butterfly_of(pass, p, q);
      for (int64_t k = 0; k < radix; ++k) {
        Complex sum{};
        for (int64_t r = 0; r < radix; ++r) {
          const int64_t twiddle = r * k % radix * turn;
          const Complex x = load_complex(from, at.in + r * at.in_step);
          sum = add(sum, times(x, plan.cosine[twiddle], plan.sine[twiddle]));
        }
        const int64_t twiddle = k * at.twiddle_step;
        store_complex(to, at.out + k * at.out_step,
                      times(sum, plan.cosine[twiddle], plan.sine[twiddle]));
      }
    }
  }
}

FASTMTE_TARGET inline void run_pass(const MelPlan& plan, const FftPass& pass, const float* from,
                                    float* to) {
  if (pass.radix == 16)
    run_radix<16>(plan, pass, from, to);
  else if (pass.radix == 4)
    run_radix<4>(plan, pass, from, to);
  else if (pass.radix == 2)
    run_radix<2>(plan, pass, from, to);
  else
    run_any_radix(plan, pass, from, to);
}

// The powers of values k and H - k of a real frame from those, a and b, of the transform of
// even + i odd samples. With E and O the transforms of the even and odd samples,
// z_k + conj z_(H-k) = 2 E_k and z_k - conj z_(H-k) = 2 i O_k; the halves are in the window.
FASTMTE_TARGET FASTMTE_INLINE void store_power(const MelPlan& plan, Complex a, Complex b, int64_t k,
                                               float* power) {
  const Complex even = {a.re + b.re, a.im - b.im}, odd = {a.im + b.im, b.re - a.re};
  const Complex turned = times(odd, plan.cosine[k], plan.sine[k]);
  const Complex low = add(even, turned), high = subtract(even, turned);
  store(power + k * kWidth, fma(low.re, low.re, low.im * low.im));
  store(power + (plan.size / 2 - k) * kWidth, fma(high.re, high.re, high.im * high.im));
}

// The same for value 0, whose other is H.
FASTMTE_TARGET FASTMTE_INLINE void store_first_power(const MelPlan& plan, Complex first,
                                                     float* power) {
  const Vector sum = (first.re + first.im) * broadcast(2);
  const Vector rest = (first.re - first.im) * broadcast(2);
  store(power, sum * sum);
  store(power + plan.size / 2 * kWidth, rest * rest);
}

// And for value H / 2, its own other.
FASTMTE_TARGET FASTMTE_INLINE void store_middle_power(const MelPlan& plan, Complex middle,
                                                      float* power) {
  const Vector re = middle.re * broadcast(2), im = middle.im * broadcast(2);
  store(power + plan.size / 4 * kWidth, fma(re, re, im * im));
}

// From the transform z (H) to the power (H + 1).
FASTMTE_TARGET inline void power_of(const MelPlan& plan, const float* z, float* power) {
  const int64_t half = plan.size / 2;
  store_first_power(plan, load_complex(z, 0), power);
  for (int64_t k = 1; 2 * k < half; ++k)
    store_power(plan, load_complex(z, k), load_complex(z, half - k), k, power);
  if (half % 2 == 0) store_middle_power(plan, load_complex(z, half / 2), power);
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
