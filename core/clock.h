// Time and identifiers. Times are microseconds since 1970-01-01 UTC unless a name says otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::core {

// Where time comes from; tests give their own. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowUs() const = 0;
};
// The system's wall clock; lives for ever.
const Clock& SystemClock();

inline constexpr int64_t kMicrosPerSecond = 1'000'000;
// What RFC 3339 can write: the years 0 to 9999.
inline constexpr int64_t kTimeMinUs = -62'167'219'200'000'000;
inline constexpr int64_t kTimeMaxUs = 253'402'300'799'999'999;

// RFC 3339 in UTC: "2015-07-30T15:26:28Z", with as many digits of a fraction as are not zero.
// A time out of range is written as the nearest in it.
std::string FormatTime(int64_t time_us);
// RFC 3339 with any offset, up to microseconds; or whole seconds since 1970. Errors: kInvalid.
Result<int64_t> ParseTime(std::string_view text);

// A UUIDv7 (RFC 9562) of this moment with random bits of the system. Thread-safe.
std::string NewUuid();

}  // namespace leat::core
