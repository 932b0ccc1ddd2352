// Signed amounts: a sign and a magnitude of 256 bits, in the smallest unit of an asset (wei).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::core {

// A value type: copy it freely. Zero has no sign. What comes from outside and what a product may be is below 2^256; sums
// have 64 bits more, so that a system account can be the counterpart of many full ones. Arithmetic that leaves even these
// is a programmer's mistake and asserts; use the Checked functions where the operands come from outside.
class Amount {
 public:
  static constexpr size_t kLimbs = 5;  // of 64 bits

  static constexpr size_t kWireBytesMax = 32;  // of a magnitude

  constexpr Amount() = default;
  constexpr Amount(uint64_t value) : limbs_{value} {}  // NOLINT: a number is an amount

  // Decimal digits, optionally behind '-'. Magnitude below 2^256. Errors: kInvalid.
  static Result<Amount> ParseDecimal(std::string_view text);
  // Decimal digits without sign. Errors: kInvalid, also for a negative number.
  static Result<Amount> ParseUnsigned(std::string_view text);
  // Big-endian magnitude of at most 32 bytes, as on the wire; leading zeros allowed. Errors: kInvalid.
  static Result<Amount> FromBytes(std::string_view magnitude, bool negative = false);

  // The magnitude, big-endian, without leading zeros; empty for zero.
  std::string Magnitude() const;
  // The sign and the magnitude's length in one byte, then the magnitude: at most 41 bytes.
  void AppendPacked(std::string* out) const;
  // Reads what AppendPacked wrote from the front of `bytes` and removes it; false if it is not there.
  static bool TakePacked(std::string_view* bytes, Amount* out);

  std::string ToDecimal() const;
  // As a decimal fraction of 10^decimals units, exact, without trailing zeros: "0.5", "-12".
  std::string ToUnits(unsigned decimals) const;

  bool IsZero() const { return (limbs_[0] | limbs_[1] | limbs_[2] | limbs_[3] | limbs_[4]) == 0; }
  bool IsNegative() const { return negative_; }
  Amount Negated() const;

  // False and unchanged when the sum does not fit 320 bits.
  [[nodiscard]] bool CheckedAdd(const Amount& other);
  // False and unchanged when the product does not fit 256 bits.
  [[nodiscard]] bool CheckedMultiply(const Amount& other);
  // Truncated towards zero; `divisor` must not be zero.
  Amount DividedBy(const Amount& divisor) const;

  Amount& operator+=(const Amount& other);
  Amount& operator-=(const Amount& other) { return *this += other.Negated(); }
  friend Amount operator+(Amount a, const Amount& b) { return a += b; }
  friend Amount operator-(Amount a, const Amount& b) { return a -= b; }
  friend Amount operator*(Amount a, const Amount& b) {
    LEAT_ASSERT(a.CheckedMultiply(b));
    return a;
  }
  friend bool operator==(const Amount&, const Amount&) = default;
  friend std::strong_ordering operator<=>(const Amount& a, const Amount& b);

 private:
  friend struct AmountAccess;
  static Amount FromLimbs(std::string_view magnitude, bool negative);

  std::array<uint64_t, kLimbs> limbs_{};  // least significant first
  bool negative_ = false;            // never true for zero
};

}  // namespace leat::core

namespace leat {
using core::Amount;
}
