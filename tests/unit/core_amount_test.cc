#include "core/amount.h"

#include <doctest/doctest.h>

#include <boost/multiprecision/cpp_int.hpp>

#include "tests/support/test_support.h"

namespace leat::core {
namespace {

using test::Below;
using test::Must;
using test::Random;
using Integer = boost::multiprecision::cpp_int;

const Integer kEnd = Integer(1) << 256;     // magnitudes from outside, and of products, lie below
const Integer kSumEnd = Integer(1) << 320;  // those of sums

Integer RandomLimb(Random& random) { return random() >> Below(random, 64); }

// Often near the edges: zero, powers of two, all ones, a whole limb of zeros.
Integer RandomMagnitude(Random& random) {
  switch (Below(random, 10)) {
    case 8: return kSumEnd - 1 - Below(random, 3);
    case 9: return (RandomLimb(random) << 256) + random();
    case 0: return Below(random, 3);
    case 1: return (Integer(1) << static_cast<unsigned>(Below(random, 256)));
    case 2: return (Integer(1) << static_cast<unsigned>(1 + Below(random, 256))) - 1;
    case 3: return kEnd - 1 - Below(random, 3);
    case 4: return boost::multiprecision::pow(Integer(10), static_cast<unsigned>(Below(random, 78)));
    default: {
      Integer out = 0;
      const uint64_t bits = 1 + Below(random, 256);
      for (int i = 0; i < 4; ++i) out = (out << 64) + random();
      return out & ((Integer(1) << static_cast<unsigned>(bits)) - 1);
    }
  }
}

Integer RandomInteger(Random& random) {
  const Integer magnitude = RandomMagnitude(random);
  return Below(random, 2) == 0 ? magnitude : Integer(-magnitude);
}

Amount ToAmount(const Integer& integer) {
  if (abs(integer) < kEnd) return Must(Amount::ParseDecimal(integer.str()));
  // A sum: only its packed form may be so large.
  std::string packed(1, '\0');
  export_bits(Integer(abs(integer)), std::back_inserter(packed), 8);
  packed[0] = static_cast<char>((packed.size() - 1) | (integer < 0 ? 0x80 : 0));
  std::string_view rest = packed;
  Amount out;
  REQUIRE(Amount::TakePacked(&rest, &out));
  return out;
}

int Rounds() { return test::Full() ? 300'000 : 20'000; }

TEST_CASE("amounts against Boost.Multiprecision") {
  const uint64_t seed = test::Seed(256);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  for (int i = 0; i < Rounds(); ++i) {
    const Integer a = RandomInteger(random);
    const Integer b = Below(random, 10) == 0 ? Integer(-a) : RandomInteger(random);
    CAPTURE(a.str());
    CAPTURE(b.str());
    const Amount x = ToAmount(a);
    const Amount y = ToAmount(b);
    // Text.
    REQUIRE(x.ToDecimal() == a.str());
    REQUIRE(x.IsZero() == (a == 0));
    REQUIRE(x.IsNegative() == (a < 0));
    REQUIRE(x.Negated().ToDecimal() == Integer(-a).str());
    // Order.
    REQUIRE((x < y) == (a < b));
    REQUIRE((x == y) == (a == b));
    REQUIRE((x > y) == (a > b));
    REQUIRE((x <= y) == (a <= b));
    // Sum and difference.
    Amount sum = x;
    const bool fits = abs(Integer(a + b)) < kSumEnd;
    REQUIRE(sum.CheckedAdd(y) == fits);
    REQUIRE(sum.ToDecimal() == (fits ? Integer(a + b) : a).str());
    if (fits) {
      REQUIRE((x + y).ToDecimal() == Integer(a + b).str());
      REQUIRE(((x + y) - y) == x);
    }
    if (abs(Integer(a - b)) < kSumEnd) REQUIRE((x - y).ToDecimal() == Integer(a - b).str());
    // Product and quotient.
    Amount product = x;
    const bool product_fits = abs(Integer(a * b)) < kEnd;
    REQUIRE(product.CheckedMultiply(y) == product_fits);
    REQUIRE(product.ToDecimal() == (product_fits ? Integer(a * b) : a).str());
    if (b != 0) REQUIRE(x.DividedBy(y).ToDecimal() == Integer(a / b).str());
    // Bytes.
    std::string packed = "before";
    x.AppendPacked(&packed);
    y.AppendPacked(&packed);
    std::string_view rest = packed;
    rest.remove_prefix(6);
    REQUIRE(rest.size() <= 82);
    Amount again;
    REQUIRE(Amount::TakePacked(&rest, &again));
    REQUIRE(again == x);
    REQUIRE(Amount::TakePacked(&rest, &again));
    REQUIRE(again == y);
    REQUIRE(rest.empty());
    const std::string magnitude = x.Magnitude();
    REQUIRE((magnitude.empty() || magnitude[0] != 0));
    if (magnitude.size() > 32) {
      REQUIRE(test::ClassOf(Amount::FromBytes(magnitude)) == ErrorClass::kInvalid);
      continue;
    }
    REQUIRE(Must(Amount::FromBytes(magnitude, x.IsNegative())) == x);
    if (magnitude.size() < 32) {
      REQUIRE(Must(Amount::FromBytes(std::string(32 - magnitude.size(), '\0') + magnitude,
                                     x.IsNegative())) == x);
    }
  }
}

TEST_CASE("an amount with itself") {
  Amount a = ToAmount(kEnd / 2 - 1);
  REQUIRE(a.CheckedAdd(a));
  CHECK(a.ToDecimal() == Integer(kEnd - 2).str());
  REQUIRE(a.CheckedAdd(a));  // above 2^256 now
  CHECK(a.ToDecimal() == Integer(2 * kEnd - 4).str());
  a -= ToAmount(kEnd - 2);
  Amount b = a;
  b -= b;
  CHECK(b.IsZero());
  CHECK_FALSE(b.IsNegative());
  Amount c = ToAmount(Integer(1) << 100);
  CHECK_FALSE(a.CheckedMultiply(a));
  REQUIRE(c.CheckedMultiply(c));
  CHECK(c.ToDecimal() == (Integer(1) << 200).str());
}

TEST_CASE("zero has no sign") {
  for (const Amount& zero : {Amount(), Amount(0), Must(Amount::ParseDecimal("-0")),
                             Must(Amount::ParseDecimal("-000")), Amount(5) - Amount(5),
                             Must(Amount::FromBytes("", true)), Must(Amount::FromBytes(std::string(32, '\0'), true)),
                             Amount().Negated(), Amount(5).Negated().DividedBy(Amount(7)),
                             Amount(5).Negated() * Amount(0)}) {
    CHECK_FALSE(zero.IsNegative());
    CHECK(zero == Amount());
    CHECK(zero.ToDecimal() == "0");
    CHECK(zero.Magnitude().empty());
    std::string packed;
    zero.AppendPacked(&packed);
    CHECK(packed == std::string(1, '\0'));
  }
}

TEST_CASE("numbers that can be parsed, and that cannot") {
  const std::string largest = Integer(kEnd - 1).str();
  CHECK(largest.size() == 78);
  CHECK(Must(Amount::ParseUnsigned(largest)).ToDecimal() == largest);
  CHECK(Must(Amount::ParseDecimal("-" + largest)).ToDecimal() == "-" + largest);
  CHECK(Must(Amount::ParseUnsigned("0000" + largest)).ToDecimal() == largest);
  CHECK(Must(Amount::ParseUnsigned(std::string(1000, '0'))).IsZero());
  CHECK(Must(Amount::ParseUnsigned("007")) == Amount(7));
  CHECK(Must(Amount::ParseUnsigned("18446744073709551615")) == Amount(UINT64_MAX));
  CHECK(Must(Amount::ParseUnsigned("9999999999999999999")) == Amount(9999999999999999999ull));
  for (const std::string& text :
       {std::string(), std::string("-"), std::string("+1"), std::string("--1"), std::string(" 1"),
        std::string("1 "), std::string("0x10"), std::string("1e3"), std::string("1.0"), std::string("1,000"),
        std::string("١"), std::string("1\0", 2), kEnd.str(), Integer(kEnd + 1).str(), std::string(78, '9'),
        std::string(79, '1'), std::string(80, '9'), std::string(100'000, '1')}) {
    CAPTURE(text.substr(0, 100));
    CHECK(test::ClassOf(Amount::ParseDecimal(text)) == ErrorClass::kInvalid);
    const auto unsigned_error = Amount::ParseUnsigned(text);
    CHECK(test::ClassOf(unsigned_error) == ErrorClass::kInvalid);
    CHECK(unsigned_error.error().message.size() < 200);
    if (!text.empty() && text[0] != '-') {
      CHECK(test::ClassOf(Amount::ParseDecimal("-" + text)) == ErrorClass::kInvalid);
    }
  }
  const auto negative = Amount::ParseUnsigned("-1");
  CHECK(test::ClassOf(negative) == ErrorClass::kInvalid);
  CHECK(negative.error().message == "\"-1\" is not a whole number from 0 to 2^256-1");
  CHECK(test::ClassOf(Amount::FromBytes(std::string(33, '\0'))) == ErrorClass::kInvalid);
}

TEST_CASE("units") {
  const auto units = [](const char* text, unsigned decimals) {
    return Must(Amount::ParseDecimal(text)).ToUnits(decimals);
  };
  CHECK(units("0", 18) == "0");
  CHECK(units("1", 18) == "0.000000000000000001");
  CHECK(units("-1", 18) == "-0.000000000000000001");
  CHECK(units("1000000000000000000", 18) == "1");
  CHECK(units("-1000000000000000000", 18) == "-1");
  CHECK(units("1500000000000000000", 18) == "1.5");
  CHECK(units("100000000000000000", 18) == "0.1");
  CHECK(units("-12345678901234567890", 18) == "-12.34567890123456789");
  CHECK(units("12", 0) == "12");
  CHECK(units("120", 1) == "12");
  CHECK(units("5", 1) == "0.5");
  CHECK(units("123", 3) == "0.123");
  const Integer largest = kEnd - 1;
  CHECK(ToAmount(largest).ToUnits(80) == "0.00" + largest.str());
  // Exact: digits and point taken apart give the number again.
  const uint64_t seed = test::Seed(18);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const Integer a = RandomInteger(random);
    const auto decimals = static_cast<unsigned>(Below(random, 30));
    std::string text = ToAmount(a).ToUnits(decimals);
    const size_t point = text.find('.');
    size_t fraction = 0;
    if (point != std::string::npos) {
      fraction = text.size() - point - 1;
      CHECK(text.back() != '0');
      text.erase(point, 1);
    }
    REQUIRE(fraction <= decimals);
    text.append(decimals - fraction, '0');
    const size_t digits = text.find_first_not_of("-0");
    text = (a < 0 ? "-" : "") + (digits == std::string::npos ? "0" : text.substr(digits));
    CHECK(text == a.str());
  }
}

TEST_CASE("packed bytes that are none") {
  const auto bad = [](std::string bytes) {
    std::string_view rest = bytes;
    Amount out;
    return !Amount::TakePacked(&rest, &out) && rest.size() == bytes.size();
  };
  CHECK(bad(""));
  CHECK(bad("\x01"));
  CHECK(bad(std::string("\x20") + std::string(31, 'x')));
  CHECK(bad(std::string("\x28") + std::string(39, 'x')));
  CHECK(bad(std::string("\x29") + std::string(41, 'x')));
  CHECK(bad(std::string("\x7f") + std::string(127, 'x')));
  CHECK(bad("\x82" "a"));
  std::string minus;
  Amount(256).Negated().AppendPacked(&minus);
  CHECK(minus == std::string("\x82\x01\x00", 3));
}

}  // namespace
}  // namespace leat::core
