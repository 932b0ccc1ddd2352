#include "core/amount.h"

#include <algorithm>
#include <boost/multiprecision/cpp_int.hpp>
#include <cstring>

namespace leat::core {

// Decimal conversion, multiplication and division are Boost.Multiprecision's; addition and comparison, which
// every posting makes, are carried out on the limbs in place.
struct AmountAccess {
  using Integer = boost::multiprecision::cpp_int;

  static Integer ToInteger(const Amount& amount) {
    Integer out;
    boost::multiprecision::import_bits(out, amount.limbs_.rbegin(), amount.limbs_.rend(), 64);
    return out;
  }
  // False when the magnitude does not fit `bits`, 256 for what is no sum.
  static bool FromInteger(const Integer& magnitude, bool negative, unsigned bits, Amount* out) {
    if (magnitude != 0 && msb(magnitude) >= bits) return false;
    *out = Amount();
    std::array<uint64_t, Amount::kLimbs> limbs{};
    boost::multiprecision::export_bits(magnitude, limbs.begin(), 64, false);
    out->limbs_ = limbs;
    out->negative_ = negative && magnitude != 0;
    return true;
  }
  static std::array<uint64_t, Amount::kLimbs>& Limbs(Amount* amount) { return amount->limbs_; }
};

namespace {

std::strong_ordering CompareMagnitude(const std::array<uint64_t, Amount::kLimbs>& a,
                                      const std::array<uint64_t, Amount::kLimbs>& b) {
  for (int i = Amount::kLimbs - 1; i >= 0; --i) {
    if (a[i] != b[i]) return a[i] <=> b[i];
  }
  return std::strong_ordering::equal;
}

Error NotANumber(std::string_view text, std::string_view range) {
  constexpr size_t kShownMax = 90;
  std::string shown(text.substr(0, kShownMax));
  if (text.size() > kShownMax) shown += "…";
  return Error{ErrorClass::kInvalid,
               "\"" + shown + "\" is not a whole number " + std::string(range),
               "write decimal digits only"};
}

constexpr std::string_view kUnsignedRange = "from 0 to 2^256-1";
constexpr std::string_view kSignedRange = "between -2^256 and 2^256";
constexpr size_t kDigitsMax = 78;        // of 2^256-1
constexpr size_t kDigitsOfSumMax = 97;  // of 2^320-1

Result<Amount> ParseDigits(std::string_view digits, bool negative, std::string_view whole,
                           std::string_view range) {
  const bool all_digits = !digits.empty() && std::all_of(digits.begin(), digits.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
  if (!all_digits) return std::unexpected(NotANumber(whole, range));
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  if (digits.size() > kDigitsMax) return std::unexpected(NotANumber(whole, range));
  Amount out;
  if (digits.size() <= 19) {  // fits 64 bits: by far the most
    uint64_t value = 0;
    for (const char c : digits) value = value * 10 + static_cast<uint64_t>(c - '0');
    out = Amount(value);
    return negative ? out.Negated() : out;
  }
  // Steps of 19 digits on the limbs: what a boost::cpp_int would do, without its allocations.
  auto& limbs = AmountAccess::Limbs(&out);
  while (!digits.empty()) {
    const size_t step = std::min<size_t>(19, digits.size());
    uint64_t scale = 1;
    uint64_t part = 0;
    for (size_t i = 0; i < step; ++i) {
      part = part * 10 + static_cast<uint64_t>(digits[i] - '0');
      scale *= 10;
    }
    digits.remove_prefix(step);
    unsigned __int128 carry = part;
    for (uint64_t& limb : limbs) {
      carry += static_cast<unsigned __int128>(limb) * scale;
      limb = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
    if (limbs[4] != 0) return std::unexpected(NotANumber(whole, range));
  }
  return negative ? out.Negated() : out;
}

}  // namespace

Result<Amount> Amount::ParseDecimal(std::string_view text) {
  const bool negative = !text.empty() && text.front() == '-';
  return ParseDigits(negative ? text.substr(1) : text, negative, text, kSignedRange);
}

Result<Amount> Amount::ParseUnsigned(std::string_view text) {
  return ParseDigits(text, false, text, kUnsignedRange);
}

Result<Amount> Amount::FromBytes(std::string_view magnitude, bool negative) {
  if (magnitude.size() > 32) {
    return Invalid("an amount of " + std::to_string(magnitude.size()) + " bytes",
                   "at most 32 bytes, big-endian");
  }
  return FromLimbs(magnitude, negative);
}

Amount Amount::FromLimbs(std::string_view magnitude, bool negative) {
  Amount out;
  for (size_t i = 0; i < magnitude.size(); ++i) {
    const size_t from_end = magnitude.size() - 1 - i;
    out.limbs_[from_end / 8] |= static_cast<uint64_t>(static_cast<uint8_t>(magnitude[i]))
                                << (from_end % 8 * 8);
  }
  out.negative_ = negative && !out.IsZero();
  return out;
}

std::string Amount::Magnitude() const {
  std::string packed;
  AppendPacked(&packed);
  return packed.substr(1);
}

void Amount::AppendPacked(std::string* out) const {
  int top = kLimbs - 1;
  while (top >= 0 && limbs_[top] == 0) --top;
  if (top < 0) {
    out->push_back(0);
    return;
  }
  const int top_bytes = 8 - __builtin_clzll(limbs_[top]) / 8;
  const int size = top * 8 + top_bytes;
  out->push_back(static_cast<char>(size | (negative_ ? 0x80 : 0)));
  for (int i = size - 1; i >= 0; --i) {
    out->push_back(static_cast<char>(limbs_[i / 8] >> (i % 8 * 8)));
  }
}

bool Amount::TakePacked(std::string_view* bytes, Amount* out) {
  if (bytes->empty()) return false;
  const auto head = static_cast<uint8_t>(bytes->front());
  const size_t size = head & 0x7f;
  if (size > 8 * kLimbs || bytes->size() < 1 + size) return false;
  *out = FromLimbs(bytes->substr(1, size), (head & 0x80) != 0);
  bytes->remove_prefix(1 + size);
  return true;
}

std::string Amount::ToDecimal() const {
  // Peel off 19 digits at a time by short division.
  std::array<uint64_t, Amount::kLimbs> rest = limbs_;
  char digits[kDigitsOfSumMax + 20];
  size_t count = 0;
  constexpr uint64_t kScale = 10'000'000'000'000'000'000ull;
  for (;;) {
    unsigned __int128 remainder = 0;
    uint64_t any = 0;
    for (int i = Amount::kLimbs - 1; i >= 0; --i) {
      remainder = remainder << 64 | rest[i];
      rest[i] = static_cast<uint64_t>(remainder / kScale);
      remainder %= kScale;
      any |= rest[i];
    }
    auto part = static_cast<uint64_t>(remainder);
    if (any == 0) {
      do {
        digits[count++] = static_cast<char>('0' + part % 10);
        part /= 10;
      } while (part != 0);
      break;
    }
    for (int i = 0; i < 19; ++i) {
      digits[count++] = static_cast<char>('0' + part % 10);
      part /= 10;
    }
  }
  if (negative_) digits[count++] = '-';
  std::reverse(digits, digits + count);
  return std::string(digits, count);
}

std::string Amount::ToUnits(unsigned decimals) const {
  std::string text = ToDecimal();
  const std::string sign = negative_ ? "-" : "";
  if (negative_) text.erase(0, 1);
  if (text.size() <= decimals) text.insert(0, decimals + 1 - text.size(), '0');
  std::string fraction = text.substr(text.size() - decimals);
  text.resize(text.size() - decimals);
  while (!fraction.empty() && fraction.back() == '0') fraction.pop_back();
  return fraction.empty() ? sign + text : sign + text + "." + fraction;
}

Amount Amount::Negated() const {
  Amount out = *this;
  out.negative_ = !negative_ && !IsZero();
  return out;
}

bool Amount::CheckedAdd(const Amount& other) {
  if (negative_ == other.negative_) {
    std::array<uint64_t, Amount::kLimbs> sum;
    unsigned __int128 carry = 0;
    for (size_t i = 0; i < Amount::kLimbs; ++i) {
      carry += static_cast<unsigned __int128>(limbs_[i]) + other.limbs_[i];
      sum[i] = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
    if (carry != 0) return false;
    limbs_ = sum;
    return true;
  }
  const bool this_larger = CompareMagnitude(limbs_, other.limbs_) >= 0;
  const auto& large = this_larger ? limbs_ : other.limbs_;
  const auto& small = this_larger ? other.limbs_ : limbs_;
  std::array<uint64_t, Amount::kLimbs> difference;
  uint64_t borrow = 0;
  for (size_t i = 0; i < Amount::kLimbs; ++i) {
    const unsigned __int128 take = static_cast<unsigned __int128>(small[i]) + borrow;
    borrow = large[i] < take ? 1 : 0;
    difference[i] = static_cast<uint64_t>(large[i] - take);
  }
  negative_ = this_larger ? negative_ : other.negative_;
  limbs_ = difference;
  if (IsZero()) negative_ = false;
  return true;
}

bool Amount::CheckedMultiply(const Amount& other) {
  return AmountAccess::FromInteger(AmountAccess::ToInteger(*this) * AmountAccess::ToInteger(other),
                                   negative_ != other.negative_, 256, this);
}

Amount Amount::DividedBy(const Amount& divisor) const {
  LEAT_ASSERT(!divisor.IsZero());
  Amount out;
  LEAT_ASSERT(AmountAccess::FromInteger(
      AmountAccess::ToInteger(*this) / AmountAccess::ToInteger(divisor),
      negative_ != divisor.negative_, 64 * kLimbs, &out));
  return out;
}

Amount& Amount::operator+=(const Amount& other) {
  LEAT_ASSERT(CheckedAdd(other));
  return *this;
}

std::strong_ordering operator<=>(const Amount& a, const Amount& b) {
  if (a.negative_ != b.negative_) {
    return a.negative_ ? std::strong_ordering::less : std::strong_ordering::greater;
  }
  const auto order = CompareMagnitude(a.limbs_, b.limbs_);
  return a.negative_ ? 0 <=> order : order;
}

}  // namespace leat::core
