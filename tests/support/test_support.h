// What the tests of several folders share: a seed that can be set, a folder that goes away, events.
#pragma once

#include <doctest/doctest.h>
#include <stdlib.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/result.h"
#include "events/event.h"
#include "eventstore/database.h"

namespace leat::test {

// LEAT_SEED, else `otherwise`. Print it with the failure: INFO("LEAT_SEED=", seed).
inline uint64_t Seed(uint64_t otherwise) {
  const char* text = std::getenv("LEAT_SEED");
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// LEAT_FULL=1: more rounds than a build has time for.
inline bool Full() {
  const char* text = std::getenv("LEAT_FULL");
  return text != nullptr && std::string_view(text) == "1";
}

using Random = std::mt19937_64;

inline uint64_t Below(Random& random, uint64_t end) { return random() % end; }

inline std::string RandomBytes(Random& random, size_t size) {
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// Text of characters of one to four bytes, quotes and control characters among them.
inline std::string RandomText(Random& random, size_t characters) {
  static constexpr std::string_view kCharacters[] = {
      "a", "Z", "0", "-", "/", "\"", "\\", "\n", "\x01", "\x7f", "ä", "µ", "€", "\u2028", "😀"};
  std::string out;
  for (size_t i = 0; i < characters; ++i) out += kCharacters[Below(random, std::size(kCharacters))];
  return out;
}

// A folder of this test, removed with all that is in it.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "leat-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Sub(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// The value, or a failure of the test that prints the error.
template <typename T>
T Must(Result<T> result) {
  if (!result) FAIL("unexpected error: ", result.error().Text());
  return std::move(*result);
}
inline void Must(const Status& status) {
  if (!status) FAIL("unexpected error: ", status.error().Text());
}

template <typename T>
ErrorClass ClassOf(const Result<T>& result) {
  REQUIRE(!result.has_value());
  return result.error().error_class;
}

// Small memory, so that a test may open many databases.
inline std::shared_ptr<eventstore::Resources> SmallResources() {
  static const auto resources = eventstore::Resources::Make(8u << 20, 64u << 20);
  return resources;
}

struct EventParts {
  std::string type = "test.happened.v1";
  std::string id = "id";
  std::string source = "test";
  std::string subject;
  std::string key;
  std::string data;
  int64_t time_us = 1'500'000'000'000'000;
};

inline events::Event MakeEvent(const EventParts& parts) {
  events::EventView view;
  view.type = parts.type;
  view.id = parts.id;
  view.source = parts.source;
  view.subject = parts.subject;
  view.partitionkey = parts.key;
  view.data = parts.data;
  view.time_us = parts.time_us;
  return events::Event(view);
}

inline events::Event DataEvent(std::string_view data) {
  EventParts parts;
  parts.data = data;
  return MakeEvent(parts);
}

// An id that no other event of this test has: what is published again under the same one is a repetition.
inline std::string FreshId() {
  static std::atomic<uint64_t> count{0};
  return "id-" + std::to_string(count++);
}

// Every attribute of `a` and `b`, for events that must come out as they went in.
inline void CheckSame(const events::EventView& a, const events::EventView& b) {
  CHECK(a.type == b.type);
  CHECK(a.time_us == b.time_us);
  CHECK((a.cause == b.cause));
  CHECK(a.id == b.id);
  CHECK(a.source == b.source);
  CHECK(a.subject == b.subject);
  CHECK((a.streamversion == b.streamversion));
  CHECK((a.position == b.position));
  CHECK(a.partitionkey == b.partitionkey);
  CHECK(a.datacontenttype == b.datacontenttype);
  CHECK(a.dataschema == b.dataschema);
  CHECK(a.correlationid == b.correlationid);
  CHECK(a.causationid == b.causationid);
  CHECK(a.traceparent == b.traceparent);
  CHECK((a.extensions == b.extensions));
  CHECK((a.data == b.data));
}

// Time that the test moves. Not thread-safe.
class ManualClock final : public core::Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  void Set(int64_t now_us) { now_us_ = now_us; }

 private:
  int64_t now_us_ = 1'600'000'000'000'000;
};

}  // namespace leat::test
