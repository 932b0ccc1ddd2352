// Hex, addresses, digests, numbers in bytes, times and identifiers.
#include <doctest/doctest.h>

#include <chrono>
#include <set>
#include <thread>

#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "tests/support/test_support.h"

namespace leat::core {
namespace {

using test::Below;
using test::Must;
using test::Random;

TEST_CASE("hex") {
  CHECK(ToHex("") == "0x");
  CHECK(ToHex(std::string("\x00\xff\x1a", 3)) == "0x00ff1a");
  CHECK(Must(FromHex("0x")).empty());
  CHECK(Must(FromHex("0X00fF1A")) == std::string("\x00\xff\x1a", 3));
  for (const char* bad : {"", "0", "x", "00", "0x0", "0xg0", "0x0g", "0x 0", "0x00 ", "1x00", "0x000"}) {
    CAPTURE(bad);
    CHECK(test::ClassOf(FromHex(bad)) == ErrorClass::kInvalid);
  }
  Random random(1);
  for (int i = 0; i < 500; ++i) {
    const std::string bytes = test::RandomBytes(random, Below(random, 100));
    CHECK(Must(FromHex(ToHex(bytes))) == bytes);
  }
}

// EIP-55's own examples.
TEST_CASE("addresses and their EIP-55 checksum") {
  const char* const good[] = {"0x52908400098527886E0F7030069857D2E4169EE7",
                              "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
                              "0xde709f2102306220921060314715629080e2fb77",
                              "0x27b1fdb04752bbc536007a920d24acb045561c26",
                              "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
                              "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
                              "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
                              "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"};
  for (const std::string text : good) {
    CAPTURE(text);
    const Address address = Must(ParseAddress(text));
    std::string lower = text, upper = text;
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    for (char& c : upper) c = static_cast<char>(std::toupper(c));
    CHECK(address.Hex() == lower);
    CHECK(Must(ParseAddress(lower)) == address);
    CHECK(Must(ParseAddress(upper)) == address);  // "0X", too
    // Any one letter in the other case breaks a mixed one.
    const bool mixed = text.substr(2) != lower.substr(2) && text.substr(2) != upper.substr(2);
    for (size_t i = 2; mixed && i < text.size(); ++i) {
      if (!std::isalpha(static_cast<unsigned char>(text[i]))) continue;
      std::string bad = text;
      bad[i] = static_cast<char>(bad[i] ^ 0x20);
      const auto result = ParseAddress(bad);
      CHECK(test::ClassOf(result) == ErrorClass::kInvalid);
      CHECK(result.error().message.find("EIP-55") != std::string::npos);
    }
  }
  for (const std::string& bad :
       {std::string(), std::string("0x"), std::string("0x123"), std::string(42, '0'), "0x" + std::string(39, '1'),
        "0x" + std::string(41, '1'), "0x" + std::string(39, '1') + "g", std::string(40, '1')}) {
    CAPTURE(bad);
    CHECK(test::ClassOf(ParseAddress(bad)) == ErrorClass::kInvalid);
  }
  CHECK(Must(ParseAddress("0x" + std::string(40, '0'))).IsZero());
  CHECK(ParseAddress(std::string(100'000, 'x')).error().message.size() < 200);
}

TEST_CASE("hashes") {
  const std::string text = "0x" + std::string(63, '0') + "A";
  CHECK(Must(ParseHash(text)).data[31] == 10);
  CHECK(Must(ParseHash(text)).Hex() == "0x" + std::string(63, '0') + "a");
  CHECK(test::ClassOf(ParseHash("0x" + std::string(62, '0'))) == ErrorClass::kInvalid);
  CHECK(test::ClassOf(ParseHash("0x" + std::string(40, '0'))) == ErrorClass::kInvalid);
  CHECK(Hash::From(std::string(32, 'a')) < Hash::From(std::string(31, 'a') + "b"));
  CHECK(Hash::From(std::string(32, '\x7f')) < Hash::From(std::string(32, '\xff')));
}

TEST_CASE("digests") {
  CHECK(Sha256("").Hex() == "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha256("abc").Hex() == "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(Sha256(std::string(1'000'000, 'a')).Hex() ==
        "0xcdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK(Keccak256("").Hex() ==
        "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
  CHECK(Keccak256("abc").Hex() ==
        "0x4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45");
  CHECK(Keccak256("testing").Hex() ==
        "0x5f16f4c7f149ac4f9510d9cf8cf384038ad348b3bcdc01915f95de12df9d1b02");
  // A block of the sponge, less and more: 136 bytes.
  std::set<std::string> seen;
  for (const size_t size : {135, 136, 137, 272}) seen.insert(Keccak256(std::string(size, 'x')).Hex());
  CHECK(seen.size() == 4);
  // XXH3 of nothing, seed 0.
  CHECK(Checksum64("") == 0x2d06800538d394c2ull);
  Random random(4);
  for (int i = 0; i < 200; ++i) {
    const std::string a = test::RandomBytes(random, Below(random, 200));
    const std::string b = test::RandomBytes(random, Below(random, 200));
    const std::string c = test::RandomBytes(random, Below(random, 200));
    CHECK(Sha256(a, b, c) == Sha256(a + b + c));
    CHECK(Sha256(a, {}, c) == Sha256(a + c));
    CHECK(Sha256({}, b) == Sha256(b));
  }
}

TEST_CASE("varints and strings in bytes") {
  Random random(2);
  std::vector<uint64_t> numbers{0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
  for (int i = 0; i < 64; ++i) {
    numbers.push_back(uint64_t{1} << i);
    numbers.push_back(random() >> i);
  }
  std::string bytes;
  for (const uint64_t number : numbers) AppendVarint(number, &bytes);
  AppendString("", &bytes);
  AppendString("abc", &bytes);
  AppendBigEndian64(0x0102030405060708, &bytes);
  AppendBigEndian32(0x0a0b0c0d, &bytes);
  ByteReader reader(bytes);
  for (const uint64_t number : numbers) {
    uint64_t got;
    REQUIRE(reader.TakeVarint(&got));
    CHECK(got == number);
  }
  std::string_view text;
  REQUIRE(reader.TakeString(&text));
  CHECK(text.empty());
  REQUIRE(reader.TakeString(&text));
  CHECK(text == "abc");
  uint64_t big;
  REQUIRE(reader.TakeBigEndian64(&big));
  CHECK(big == 0x0102030405060708);
  CHECK(LoadBigEndian32(reader.Rest().data()) == 0x0a0b0c0d);
  CHECK(reader.TakeBytes(4, &text));
  CHECK(text == "\x0a\x0b\x0c\x0d");
  CHECK(reader.Empty());
  CHECK_FALSE(reader.TakeBytes(1, &text));
  CHECK(reader.TakeBytes(0, &text));
  // What does not hold a value gives none, and stays.
  for (const std::string& bad : {std::string(), std::string("\x80"), std::string(10, '\xff'),
                                 std::string(9, '\x80')}) {
    ByteReader one(bad);
    uint64_t value;
    CHECK_FALSE(one.TakeVarint(&value));
    CHECK(one.Rest() == bad);
  }
  ByteReader lying("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" "abc");
  CHECK_FALSE(lying.TakeString(&text));
}

TEST_CASE("whole numbers") {
  CHECK(Must(ParseUint64("0")) == 0);
  CHECK(Must(ParseUint64("18446744073709551615")) == UINT64_MAX);
  for (const char* bad : {"", "-1", "+1", " 1", "1 ", "1.0", "0x1", "18446744073709551616", "a"}) {
    CAPTURE(bad);
    CHECK(test::ClassOf(ParseUint64(bad)) == ErrorClass::kInvalid);
  }
}

TEST_CASE("times in text, and back") {
  const auto round = [](int64_t time_us, const char* text) {
    CAPTURE(text);
    CHECK(FormatTime(time_us) == text);
    CHECK(Must(ParseTime(text)) == time_us);
  };
  round(0, "1970-01-01T00:00:00Z");
  round(1, "1970-01-01T00:00:00.000001Z");
  round(-1, "1969-12-31T23:59:59.999999Z");
  round(-1'000'000, "1969-12-31T23:59:59Z");
  round(-1'500'000, "1969-12-31T23:59:58.5Z");
  round(1'438'269'988'000'000, "2015-07-30T15:26:28Z");
  round(951'782'400'000'000, "2000-02-29T00:00:00Z");
  round(-2'203'977'600'000'000, "1900-02-28T00:00:00Z");
  round(kTimeMinUs, "0000-01-01T00:00:00Z");
  round(kTimeMaxUs, "9999-12-31T23:59:59.999999Z");
  CHECK(FormatTime(INT64_MIN) == "0000-01-01T00:00:00Z");
  CHECK(FormatTime(INT64_MAX) == "9999-12-31T23:59:59.999999Z");
}

TEST_CASE("random times go to text and back") {
  const uint64_t seed = test::Seed(1970);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  for (int i = 0; i < 20'000; ++i) {
    int64_t time_us = kTimeMinUs + static_cast<int64_t>(Below(
                                       random, static_cast<uint64_t>(kTimeMaxUs - kTimeMinUs)));
    if (i % 3 == 0) time_us = time_us / 1'000'000 * 1'000'000;
    const std::string text = FormatTime(time_us);
    REQUIRE(Must(ParseTime(text)) == time_us);
    // Order of texts is order of times.
    if (i % 3 == 0) REQUIRE((text < "1970-01-01T00:00:00Z") == (time_us < 0));
  }
}

TEST_CASE("times as others write them") {
  const int64_t at = 1'438'269'988'000'000;
  for (const char* text :
       {"2015-07-30T15:26:28Z", "2015-07-30t15:26:28z", "2015-07-30 15:26:28Z", "2015-07-30T15:26:28.000Z",
        "2015-07-30T15:26:28.0000000009Z", "2015-07-30T17:26:28+02:00", "2015-07-30T09:56:28-05:30",
        "2015-07-31T15:25:28+23:59", "1438269988", "2015-07-30T15:26:28-00:00"}) {
    CAPTURE(text);
    CHECK(Must(ParseTime(text)) == at);
  }
  CHECK(Must(ParseTime("0")) == 0);
  // A leap second is the first of the next minute.
  CHECK(Must(ParseTime("2016-12-31T23:59:60Z")) == Must(ParseTime("2017-01-01T00:00:00Z")));
  for (const char* leap : {"2016-02-29", "2000-02-29", "2400-02-29", "0000-02-29"}) {
    CHECK(ParseTime(std::string(leap) + "T00:00:00Z").has_value());
  }
  for (const char* bad :
       {"", "x", "2015-07-30", "2015-07-30T15:26Z", "2015-07-30T15:26:28", "2015-07-30T15:26:28.Z",
        "2015-07-30T15:26:28.+01:00", "2015-07-30T15:26:28.", "2015-07-30T15:26:28,5Z", "2015-07-30T15:26:28ZZ",
        "2015-07-30T15:26:28+0200", "2015-07-30T15:26:28+24:00", "2015-07-30T15:26:28+02:60",
        "2015-07-30T15:26:28+02", "2015-07-30T24:00:00Z", "2015-07-30T15:60:00Z", "2015-07-30T15:26:61Z",
        "2015-13-01T00:00:00Z", "2015-00-01T00:00:00Z", "2015-01-00T00:00:00Z", "2015-04-31T00:00:00Z",
        "2015-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "15-07-30T15:26:28Z", "+2015-07-30T15:26:28Z",
        "-2015-07-30T15:26:28Z", "20150730T152628Z", " 2015-07-30T15:26:28Z", "2015-07-30T15:26:28Z ",
        "253402300800", "99999999999999999999", "-1", "1.5",
        "0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z"}) {
    CAPTURE(bad);
    CHECK(test::ClassOf(ParseTime(bad)) == ErrorClass::kInvalid);
  }
  CHECK(Must(ParseTime("253402300799")) == 253'402'300'799'000'000);
}

TEST_CASE("UUIDv7") {
  std::set<std::string> seen;
  std::string last_time;
  for (int i = 0; i < 2000; ++i) {
    const auto before = static_cast<uint64_t>(SystemClock().NowUs() / 1000);
    const std::string id = NewUuid();
    const auto after = static_cast<uint64_t>(SystemClock().NowUs() / 1000);
    REQUIRE(id.size() == 36);
    for (size_t at = 0; at < id.size(); ++at) {
      const bool dash = at == 8 || at == 13 || at == 18 || at == 23;
      REQUIRE((dash ? id[at] == '-' : std::string("0123456789abcdef").find(id[at]) != std::string::npos));
    }
    REQUIRE(id[14] == '7');
    REQUIRE(std::string("89ab").find(id[19]) != std::string::npos);
    const uint64_t millis = std::stoull(id.substr(0, 8) + id.substr(9, 4), nullptr, 16);
    REQUIRE(millis >= before);
    REQUIRE(millis <= after);
    REQUIRE(seen.insert(id).second);
  }
  // From several threads, too.
  std::vector<std::vector<std::string>> made(4);
  {
    std::vector<std::jthread> threads;
    for (auto& list : made) {
      threads.emplace_back([&list] {
        for (int i = 0; i < 500; ++i) list.push_back(NewUuid());
      });
    }
  }
  for (const auto& list : made) {
    for (const auto& id : list) CHECK(seen.insert(id).second);
  }
}

TEST_CASE("errors") {
  const Error error{ErrorClass::kConflict, "what", "do this"};
  CHECK(error.Text() == "what (do this)");
  CHECK(error.WithContext("where").Text() == "where: what (do this)");
  CHECK(error.WithContext("where").error_class == ErrorClass::kConflict);
  CHECK_FALSE(error.Retryable());
  CHECK(Error{ErrorClass::kUnavailable, "m", ""}.Retryable());
  CHECK(Error{ErrorClass::kUnavailable, "m", ""}.Text() == "m");
  CHECK(ErrorClassName(ErrorClass::kNotFound) == "not_found");
}

}  // namespace
}  // namespace leat::core
