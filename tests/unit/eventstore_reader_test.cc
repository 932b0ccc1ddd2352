#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "eventstore/event_store.h"
#include "eventstore/reader.h"

namespace {

using namespace leat::eventstore;

struct Fixture {
  explicit Fixture(uint64_t run_events) {
    folder = std::filesystem::temp_directory_path().string() + "/leat_reader_test." +
             std::to_string(getpid());
    std::filesystem::remove_all(folder);
    EventStoreOptions options;
    options.database.path = folder;
    options.log.index_run_events = run_events;
    store = std::move(*EventStore::Open(options));
  }
  ~Fixture() {
    store.reset();
    std::filesystem::remove_all(folder);
  }
  void Append(const std::string& stream, const std::string& type, const std::string& data) {
    leat::events::EventView view;
    view.type = type;
    view.data = data;
    view.id = "i";
    REQUIRE(store->AppendOne({stream, kAnyVersion, {leat::events::Event(view)}, ""}));
  }
  std::vector<std::string> Read(const ReadOptions& options) const {
    Reader reader(&store->log(), options);
    LogEvent event;
    leat::events::EventView view;
    std::vector<std::string> out;
    while (*reader.Next(&event, &view)) out.emplace_back(view.data);
    return out;
  }
  std::string folder;
  std::unique_ptr<EventStore> store;
};

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("the whole log and one stream, both ways, by category and by type") {
  for (const uint64_t run_events : {3u, 100'000u}) {
    Fixture fixture(run_events);
    fixture.Append("order-1", "placed", "a");
    fixture.Append("order-2", "placed", "b");
    fixture.Append("account-1", "opened", "c");
    fixture.Append("order-1", "paid", "d");
    fixture.Append("order-1", "sent", "e");
    fixture.Append("account-1", "closed", "f");
    CHECK(fixture.Read({}) == Texts{"a", "b", "c", "d", "e", "f"});
    ReadOptions options;
    options.from_position = 4;
    CHECK(fixture.Read(options) == Texts{"e", "f"});
    options.direction = Direction::kBackward;
    CHECK(fixture.Read(options) == Texts{"d", "c", "b", "a"});
    options.category = "order";
    CHECK(fixture.Read(options) == Texts{"d", "b", "a"});
    options.type = "p*";
    options.from_position = UINT64_MAX;
    CHECK(fixture.Read(options) == Texts{"d", "b", "a"});
    options.type = "sent";
    CHECK(fixture.Read(options) == Texts{"e"});
    options = {};
    options.stream = "order-1";
    CHECK(fixture.Read(options) == Texts{"a", "d", "e"});
    options.from_version = 2;
    CHECK(fixture.Read(options) == Texts{"d", "e"});
    options.direction = Direction::kBackward;
    CHECK(fixture.Read(options) == Texts{"a"});
    options.from_version = UINT64_MAX;
    CHECK(fixture.Read(options) == Texts{"e", "d", "a"});
    options.stream = "order-3";
    CHECK(fixture.Read(options).empty());
  }
}

TEST_CASE("a long stream is read in steps, both ways") {
  Fixture fixture(200);
  Texts expected;
  for (int i = 0; i < 700; ++i) {
    fixture.Append(i % 7 == 0 ? "b" : "a", "t", std::to_string(i));
    if (i % 7 != 0) expected.push_back(std::to_string(i));
  }
  ReadOptions options;
  options.stream = "a";
  CHECK(fixture.Read(options) == expected);
  options.direction = Direction::kBackward;
  options.from_version = UINT64_MAX;
  std::reverse(expected.begin(), expected.end());
  CHECK(fixture.Read(options) == expected);
}

TEST_CASE("a stream read backwards beside its writer gives each event once") {
  Fixture fixture(100'000);
  constexpr int kEvents = 600;  // of three look-ups
  for (int i = 0; i < kEvents; ++i) fixture.Append("s", "t", "x");
  std::jthread writer([&](std::stop_token stop) {
    while (!stop.stop_requested()) fixture.Append("s", "t", "x");
  });
  for (int i = 0; i < 50; ++i) {
    Reader reader(&fixture.store->log(), {Direction::kBackward, 0, "s", UINT64_MAX, "", ""});
    LogEvent event;
    leat::events::EventView view;
    uint64_t expected = 0;
    int steps = 0;
    while (*reader.Next(&event, &view)) {
      if (expected != 0) REQUIRE(event.version == expected);
      expected = event.version - 1;
      ++steps;
    }
    CHECK(expected == 0);
    CHECK(steps >= kEvents);
  }
}

TEST_CASE("a subscription catches up and goes live without a gap or a duplicate") {
  constexpr int kEvents = 2000;
  for (const bool one_stream : {false, true}) {
    Fixture fixture(64);
    for (int i = 0; i < kEvents / 2; ++i) fixture.Append("s-1", "t", std::to_string(i));
    std::thread writer([&] {
      for (int i = kEvents / 2; i < kEvents; ++i) fixture.Append("s-1", "t", std::to_string(i));
    });
    ReadOptions options;
    if (one_stream) options.stream = "s-1";
    Reader reader(&fixture.store->log(), options);
    LogEvent event;
    leat::events::EventView view;
    for (int next = 0; next < kEvents;) {
      const auto more = reader.Next(&event, &view);
      REQUIRE(more);
      if (!*more) {
        reader.Wait(std::chrono::seconds(5));
        continue;
      }
      REQUIRE(view.data == std::to_string(next));
      REQUIRE(event.version == static_cast<uint64_t>(next) + 1);
      ++next;
    }
    writer.join();
    CHECK_FALSE(reader.Wait(std::chrono::milliseconds(1)));
  }
}
