#include "core/clock.h"

#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/bytes.h"

namespace leat::core {
namespace {

class WallClock final : public Clock {
 public:
  int64_t NowUs() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};


Error NotATime(std::string_view text) {
  return Error{ErrorClass::kInvalid, "\"" + std::string(text.substr(0, 64)) + "\" is not a time",
               "write RFC 3339, such as 2015-07-30T15:26:28Z, or seconds since 1970"};
}

// Exactly `count` digits from the front.
bool TakeDigits(std::string_view* text, size_t count, int* out) {
  if (text->size() < count) return false;
  *out = 0;
  for (size_t i = 0; i < count; ++i) {
    const char c = (*text)[i];
    if (c < '0' || c > '9') return false;
    *out = *out * 10 + (c - '0');
  }
  text->remove_prefix(count);
  return true;
}

void AppendDigits(uint32_t number, size_t count, std::string* out) {
  out->append(count, '0');
  for (size_t i = out->size(); count > 0; --count, number /= 10) {
    (*out)[--i] = static_cast<char>('0' + number % 10);
  }
}

bool TakeChar(std::string_view* text, std::string_view any_of) {
  if (text->empty() || any_of.find(text->front()) == std::string_view::npos) return false;
  text->remove_prefix(1);
  return true;
}

}  // namespace

const Clock& SystemClock() {
  static const WallClock clock;
  return clock;
}

std::string FormatTime(int64_t time_us) {
  time_us = std::clamp(time_us, kTimeMinUs, kTimeMaxUs);
  int64_t seconds = time_us / kMicrosPerSecond;
  int64_t micros = time_us % kMicrosPerSecond;
  if (micros < 0) {
    micros += kMicrosPerSecond;
    --seconds;
  }
  const std::chrono::sys_seconds instant{std::chrono::seconds(seconds)};
  const auto day = std::chrono::floor<std::chrono::days>(instant);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(instant - day);
  // By hand: every event that is published has a time, and snprintf was a tenth of publishing it.
  std::string out;
  out.reserve(sizeof "2015-07-30T15:26:28.123456Z");
  AppendDigits(static_cast<uint32_t>(static_cast<int>(date.year())), 4, &out);
  out += '-';
  AppendDigits(static_cast<unsigned>(date.month()), 2, &out);
  out += '-';
  AppendDigits(static_cast<unsigned>(date.day()), 2, &out);
  out += 'T';
  AppendDigits(static_cast<uint32_t>(clock.hours().count()), 2, &out);
  out += ':';
  AppendDigits(static_cast<uint32_t>(clock.minutes().count()), 2, &out);
  out += ':';
  AppendDigits(static_cast<uint32_t>(clock.seconds().count()), 2, &out);
  if (micros != 0) {
    out += '.';
    AppendDigits(static_cast<uint32_t>(micros), 6, &out);
    while (out.back() == '0') out.pop_back();
  }
  out += 'Z';
  return out;
}

Result<int64_t> ParseTime(std::string_view text) {
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos) {
    const auto seconds = ParseUint64(text);
    if (!seconds || *seconds > kTimeMaxUs / kMicrosPerSecond) return std::unexpected(NotATime(text));
    return static_cast<int64_t>(*seconds) * kMicrosPerSecond;
  }
  std::string_view rest = text;
  int year, month, day, hour, minute, second;
  if (!TakeDigits(&rest, 4, &year) || !TakeChar(&rest, "-") || !TakeDigits(&rest, 2, &month) ||
      !TakeChar(&rest, "-") || !TakeDigits(&rest, 2, &day) || !TakeChar(&rest, "Tt ") ||
      !TakeDigits(&rest, 2, &hour) || !TakeChar(&rest, ":") || !TakeDigits(&rest, 2, &minute) ||
      !TakeChar(&rest, ":") || !TakeDigits(&rest, 2, &second)) {
    return std::unexpected(NotATime(text));
  }
  int64_t micros = 0;
  if (TakeChar(&rest, ".")) {
    int64_t scale = kMicrosPerSecond / 10;
    int digit;
    if (rest.empty() || rest.front() < '0' || rest.front() > '9') {
      return std::unexpected(NotATime(text));
    }
    while (TakeDigits(&rest, 1, &digit)) {
      micros += digit * scale;
      scale /= 10;
    }
  }
  int64_t offset_s = 0;
  if (!TakeChar(&rest, "Zz")) {
    const bool minus = !rest.empty() && rest.front() == '-';
    int offset_hour, offset_minute;
    if (!TakeChar(&rest, "+-") || !TakeDigits(&rest, 2, &offset_hour) || !TakeChar(&rest, ":") ||
        !TakeDigits(&rest, 2, &offset_minute) || offset_hour > 23 || offset_minute > 59) {
      return std::unexpected(NotATime(text));
    }
    offset_s = (offset_hour * 60 + offset_minute) * 60 * (minus ? -1 : 1);
  }
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!rest.empty() || !date.ok() || hour > 23 || minute > 59 || second > 60) {
    return std::unexpected(NotATime(text));
  }
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  const int64_t seconds = days * 86'400 + hour * 3'600 + minute * 60 + second - offset_s;
  // An offset may carry it out of the years that can be written.
  if (seconds < kTimeMinUs / kMicrosPerSecond || seconds > kTimeMaxUs / kMicrosPerSecond) {
    return std::unexpected(NotATime(text));
  }
  return seconds * kMicrosPerSecond + micros;
}

std::string NewUuid() {
  uint8_t bytes[16];
  LEAT_ASSERT(RAND_bytes(bytes, sizeof bytes) == 1);
  const auto millis = static_cast<uint64_t>(SystemClock().NowUs() / 1000);
  for (int i = 0; i < 6; ++i) bytes[i] = static_cast<uint8_t>(millis >> (40 - 8 * i));
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x70);
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
  std::string hex;
  AppendHex({reinterpret_cast<const char*>(bytes), sizeof bytes}, &hex);
  for (const size_t at : {20, 16, 12, 8}) hex.insert(at, "-");
  return hex;
}

}  // namespace leat::core
