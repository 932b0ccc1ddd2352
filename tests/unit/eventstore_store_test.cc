#include <doctest/doctest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include "eventstore/event_store.h"
#include "tests/support/test_support.h"

namespace leat::eventstore {
namespace {

using test::DataEvent;
using test::Must;
using test::TempFolder;

class StoreFixture {
 public:
  explicit StoreFixture(uint64_t index_run_events = 262'144) {
    options_.database.path = temp_.Sub("store");
    options_.database.resources = test::SmallResources();
    options_.log.source = "leat/test";
    options_.log.index_run_events = index_run_events;
    Reopen();
  }
  void Reopen() {
    store_.reset();
    store_ = Must(EventStore::Open(options_));
  }
  void Close() { store_.reset(); }
  EventStore& store() { return *store_; }
  const EventStoreOptions& options() const { return options_; }

 private:
  TempFolder temp_;
  EventStoreOptions options_;
  std::unique_ptr<EventStore> store_;
};

Append Make(std::string stream, std::vector<std::string> datas, uint64_t expected = kAnyVersion,
            std::string key = {}) {
  Append append;
  append.stream = std::move(stream);
  append.expected_version = expected;
  append.idempotency_key = std::move(key);
  for (const auto& data : datas) append.events.push_back(DataEvent(data));
  return append;
}

std::vector<std::string> ReadAll(const EventStore& store) {
  std::vector<std::string> out;
  LogCursor cursor = store.log().Read(0);
  LogEvent event;
  while (Must(cursor.Next(&event))) {
    out.push_back(std::string(event.stream) + ":" + std::string(Must(event.Decode()).data));
  }
  return out;
}

TEST_CASE("appends, versions and conflicts that name the actual version") {
  StoreFixture fixture;
  auto appended = Must(fixture.store().AppendOne(Make("a", {"1", "2"}, 0)));
  CHECK(appended.first_position == 0);
  CHECK(appended.first_version == 1);
  CHECK(appended.count == 2);
  CHECK_FALSE(appended.repeated);
  appended = Must(fixture.store().AppendOne(Make("b", {"1"})));
  CHECK(appended.first_position == 2);
  CHECK(appended.first_version == 1);
  appended = Must(fixture.store().AppendOne(Make("a", {"3"}, 2)));
  CHECK(appended.first_position == 3);
  CHECK(appended.first_version == 3);
  for (const uint64_t wrong : {0, 1, 2, 4, 1000}) {
    const auto conflict = fixture.store().AppendOne(Make("a", {"x"}, wrong));
    CHECK(test::ClassOf(conflict) == ErrorClass::kConflict);
    CHECK(conflict.error().message.find("at version 3") != std::string::npos);
  }
  CHECK(test::ClassOf(fixture.store().AppendOne(Make("new", {"x"}, 1))) == ErrorClass::kConflict);
  fixture.Reopen();
  CHECK(test::ClassOf(fixture.store().AppendOne(Make("a", {"x"}, 2))) == ErrorClass::kConflict);
  appended = Must(fixture.store().AppendOne(Make("a", {"4"}, 3)));
  CHECK(appended.first_position == 4);
  CHECK(ReadAll(fixture.store()) == std::vector<std::string>{"a:1", "a:2", "b:1", "a:3", "a:4"});
}

TEST_CASE("appends that are refused leave no trace") {
  StoreFixture fixture;
  const auto refused = [&](Append append) {
    return test::ClassOf(fixture.store().AppendOne(std::move(append)));
  };
  CHECK(refused(Make("", {"x"})) == ErrorClass::kInvalid);
  CHECK(refused(Make(std::string(kStreamBytesMax + 1, 's'), {"x"})) == ErrorClass::kInvalid);
  CHECK(refused(Make(std::string("a\0b", 3), {"x"})) == ErrorClass::kInvalid);
  CHECK(refused(Make("a", {})) == ErrorClass::kInvalid);
  CHECK(refused(Make("a", {"x"}, kAnyVersion, std::string(kIdempotencyKeyBytesMax + 1, 'k'))) ==
        ErrorClass::kInvalid);
  CHECK(refused(Make("a", {std::string(events::kDataBytesMax + 1, 'x')})) == ErrorClass::kInvalid);
  {
    // An envelope that could be written but not read again.
    events::EventView view;
    view.type = "t.v1";
    for (size_t i = 0; i <= events::kExtensionsMax; ++i) view.extensions.emplace_back("e", "v");
    Append append = Make("a", {"fine"});
    append.events.emplace_back(view);
    CHECK(refused(std::move(append)) == ErrorClass::kInvalid);
    view.extensions.clear();
    const std::string longer(events::kAttributeBytesMax + 1, 'x');
    view.subject = longer;
    append = Make("a", {"fine"});
    append.events.emplace_back(view);
    CHECK(refused(std::move(append)) == ErrorClass::kInvalid);
  }
  CHECK(fixture.store().log().size() == 0);
  CHECK(Must(fixture.store().log().PublishedVersion("a")) == 0);
  CHECK(Must(fixture.store().AppendOne(Make("a", {"1"}, 0))).first_position == 0);
  Must(fixture.store().log().Verify(nullptr, nullptr));
}

TEST_CASE("several streams in one atomic append") {
  StoreFixture fixture;
  Must(fixture.store().AppendOne(Make("b", {"0"})));
  auto all = Must(fixture.store().AppendAll(
      {Make("a", {"1", "2"}, 0), Make("b", {"3"}, 1), Make("a", {"4"}, 2)}));
  REQUIRE(all.size() == 3);
  CHECK(all[0].first_position == 1);
  CHECK(all[1].first_position == 3);
  CHECK(all[2].first_position == 4);
  CHECK(all[2].first_version == 3);
  // One conflict refuses all.
  const uint64_t size = fixture.store().log().size();
  CHECK(test::ClassOf(fixture.store().AppendAll(
            {Make("a", {"x"}, 3), Make("c", {"x"}, 0), Make("b", {"x"}, 1)})) ==
        ErrorClass::kConflict);
  CHECK(test::ClassOf(fixture.store().AppendAll({Make("a", {"x"}, 3), Make("c", {})})) ==
        ErrorClass::kInvalid);
  CHECK(fixture.store().log().size() == size);
  CHECK(Must(fixture.store().log().PublishedVersion("c")) == 0);
  // And leaves nothing behind in the writer's memory.
  CHECK(Must(fixture.store().AppendOne(Make("a", {"5"}, 3))).first_position == size);
  CHECK(Must(fixture.store().AppendOne(Make("c", {"6"}, 0))).first_version == 1);
  CHECK(Must(fixture.store().AppendAll({})).empty());
}

TEST_CASE("idempotency keys: the same content returns the first result, other content conflicts") {
  StoreFixture fixture;
  const auto first = Must(fixture.store().AppendOne(Make("a", {"1", "2"}, 0, "key")));
  for (int round = 0; round < 2; ++round) {
    // The expected version is that of the first time, and does not matter any more.
    auto again = Must(fixture.store().AppendOne(Make("a", {"1", "2"}, 0, "key")));
    CHECK(again.repeated);
    CHECK(again.first_position == first.first_position);
    CHECK(again.first_version == first.first_version);
    CHECK(again.count == first.count);
    // An id or a time made anew is the same content.
    Append retry = Make("a", {}, 0, "key");
    test::EventParts parts;
    parts.id = "another id";
    parts.time_us = 5;
    for (const char* data : {"1", "2"}) {
      parts.data = data;
      retry.events.push_back(test::MakeEvent(parts));
    }
    CHECK(Must(fixture.store().AppendOne(std::move(retry))).repeated);
    for (auto other : {std::vector<std::string>{"1"}, {"1", "2", "3"}, {"2", "1"}, {"12"}, {"1", ""}}) {
      const auto conflict = fixture.store().AppendOne(Make("a", other, kAnyVersion, "key"));
      CHECK(test::ClassOf(conflict) == ErrorClass::kConflict);
      CHECK(conflict.error().message.find("other content") != std::string::npos);
    }
    Append other_key = Make("a", {}, 0, "key");
    parts.key = "partition key";
    for (const char* data : {"1", "2"}) {
      parts.data = data;
      other_key.events.push_back(test::MakeEvent(parts));
    }
    CHECK(test::ClassOf(fixture.store().AppendOne(std::move(other_key))) == ErrorClass::kConflict);
    fixture.Reopen();
  }
  // The scope is the stream.
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("b", {"1", "2"}, 0, "key"))).repeated);
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("a", {"1", "2"}, 2, "key2"))).repeated);
  // A stream and a key do not run into each other.
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("ab", {"x"}, 0, "c"))).repeated);
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("a", {"x"}, kAnyVersion, "bc"))).repeated);
  CHECK(fixture.store().log().size() == 8);
}

TEST_CASE("a refused append does not use up its key") {
  StoreFixture fixture;
  CHECK(test::ClassOf(fixture.store().AppendOne(Make("a", {"1"}, 5, "key"))) ==
        ErrorClass::kConflict);
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("a", {"2"}, 0, "key"))).repeated);
}

TEST_CASE("keys of an atomic append over several streams") {
  StoreFixture fixture;
  const auto both = [](std::string second) {
    return std::vector<Append>{Make("a", {"1"}, kAnyVersion, "k"),
                               Make("b", {std::move(second)}, kAnyVersion, "k")};
  };
  Must(fixture.store().AppendAll(both("2")));
  const auto again = Must(fixture.store().AppendAll(both("2")));
  CHECK(again[0].repeated);
  CHECK(again[1].repeated);
  CHECK(again[1].first_position == 1);
  CHECK(test::ClassOf(fixture.store().AppendAll(both("3"))) == ErrorClass::kConflict);
  // Half of it was made before.
  CHECK(test::ClassOf(fixture.store().AppendAll({Make("a", {"1"}, kAnyVersion, "k"),
                                                 Make("c", {"2"}, kAnyVersion, "k")})) ==
        ErrorClass::kConflict);
  CHECK(test::ClassOf(fixture.store().AppendAll({Make("a", {"1"}, kAnyVersion, "k"),
                                                 Make("c", {"2"})})) == ErrorClass::kConflict);
  // The same key twice in one append cannot be told apart later.
  CHECK(test::ClassOf(fixture.store().AppendAll({Make("d", {"1"}, kAnyVersion, "k"),
                                                 Make("d", {"2"}, kAnyVersion, "k")})) ==
        ErrorClass::kInvalid);
  CHECK(fixture.store().log().size() == 2);
}

// Appends that are sure to be in one group: the writer is held up in the callback of the one before.
TEST_CASE("keys and versions within one group commit") {
  StoreFixture fixture;
  std::mutex gate;
  gate.lock();
  std::atomic<bool> held{false};
  fixture.store().AppendAsync({Make("gate", {"x"})}, [&](auto) {
    held = true;
    std::lock_guard wait(gate);
  });
  while (!held) std::this_thread::yield();
  std::mutex mutex;
  std::map<int, Result<std::vector<Appended>>> results;
  const auto ask = [&](int number, Append append) {
    fixture.store().AppendAsync({std::move(append)}, [&, number](auto result) {
      std::lock_guard lock(mutex);
      results.emplace(number, std::move(result));
    });
  };
  ask(1, Make("a", {"1"}, 0, "k"));
  ask(2, Make("a", {"1"}, 0, "k"));
  ask(3, Make("a", {"other"}, kAnyVersion, "k"));
  ask(4, Make("a", {"2"}, 0));
  ask(5, Make("a", {"2"}, 1));
  ask(6, Make("b", {"x"}, 0, "k"));
  gate.unlock();
  fixture.Close();  // finishes what was asked for
  REQUIRE(results.size() == 6);
  CHECK((*results.at(1))[0].first_position == 1);
  CHECK_FALSE((*results.at(1))[0].repeated);
  CHECK((*results.at(2))[0].repeated);
  CHECK((*results.at(2))[0].first_position == 1);
  CHECK(test::ClassOf(results.at(3)) == ErrorClass::kConflict);
  CHECK(test::ClassOf(results.at(4)) == ErrorClass::kConflict);
  CHECK((*results.at(5))[0].first_version == 2);
  CHECK((*results.at(5))[0].first_position == 2);
  CHECK((*results.at(6))[0].first_position == 3);
  fixture.Reopen();
  CHECK(ReadAll(fixture.store()) == std::vector<std::string>{"gate:x", "a:1", "a:2", "b:x"});
  const auto report = Must(fixture.store().log().Verify(nullptr, nullptr));
  CHECK(report.records == 2);  // the group was one commit
}

TEST_CASE("group commit from many threads gives gapless positions and versions") {
  StoreFixture fixture(128);
  constexpr int kThreads = 6;
  constexpr int kAppends = 200;
  std::mutex mutex;
  std::set<uint64_t> positions;
  std::map<std::string, std::set<uint64_t>> versions;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        uint64_t last = 0;
        for (int i = 0; i < kAppends; ++i) {
          const std::string stream = "s-" + std::to_string((t + i) % 4);
          std::vector<std::string> datas(1 + (i + t) % 3, std::to_string(t) + "/" + std::to_string(i));
          const auto appended = fixture.store().AppendOne(Make(stream, datas));
          if (!appended) {
            CHECK_MESSAGE(false, appended.error().Text());
            return;
          }
          // Visible at once to the one who appended.
          LogCursor cursor = fixture.store().log().Read(appended->first_position);
          LogEvent event;
          const auto found = cursor.Next(&event);
          const bool read = found && *found && event.stream == stream &&
                            event.Decode()->data == datas[0] &&
                            event.version == appended->first_version;
          std::lock_guard lock(mutex);
          if (!read) CHECK_MESSAGE(false, "an append is not readable");
          if (i > 0 && appended->first_position <= last) CHECK_MESSAGE(false, "positions went back");
          last = appended->first_position;
          for (uint64_t j = 0; j < appended->count; ++j) {
            if (!positions.insert(appended->first_position + j).second) {
              CHECK_MESSAGE(false, "a position was given twice");
            }
            versions[stream].insert(appended->first_version + j);
          }
        }
      });
    }
  }
  REQUIRE(!positions.empty());
  CHECK(*positions.begin() == 0);
  CHECK(*positions.rbegin() + 1 == positions.size());
  CHECK(fixture.store().log().size() == positions.size());
  for (const auto& [stream, seen] : versions) {
    CHECK(*seen.begin() == 1);
    CHECK(*seen.rbegin() == seen.size());
    CHECK(Must(fixture.store().log().PublishedVersion(stream)) == seen.size());
  }
  fixture.Reopen();
  CHECK(fixture.store().log().size() == positions.size());
  Must(fixture.store().log().Verify(nullptr, nullptr));
}

TEST_CASE("one of many rivals wins an expected version") {
  StoreFixture fixture;
  std::atomic<int> won{0};
  constexpr int kThreads = 4;
  constexpr uint64_t kRounds = 50;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (uint64_t version = 0; version < kRounds;) {
          const auto appended = fixture.store().AppendOne(Make("s", {"x"}, version));
          if (appended) ++won;
          const auto now = fixture.store().log().PublishedVersion("s");
          version = std::max(version, *now);
        }
      });
    }
  }
  CHECK(won == kRounds);
  CHECK(fixture.store().log().size() == kRounds);
}

TEST_CASE("a second opening of the same store is refused") {
  StoreFixture fixture;
  CHECK(test::ClassOf(EventStore::Open(fixture.options())) == ErrorClass::kConflict);
}

TEST_CASE("an error that is no lock is not taken for one") {
  const TempFolder temp;
  DatabaseOptions options;
  options.path = temp.Sub("chain.blocks");  // a name with "lock" in it
  options.resources = test::SmallResources();
  Must(Database::Open(options));
  // The list of files is there and cannot be read.
  std::filesystem::remove(temp.Sub("chain.blocks/CURRENT"));
  std::filesystem::create_directory(temp.Sub("chain.blocks/CURRENT"));
  CHECK(test::ClassOf(Database::Open(options)) != ErrorClass::kConflict);
}

TEST_CASE("a disk that refuses stops the store, and nothing that failed is told to be done") {
  StoreFixture fixture;
  Must(fixture.store().AppendOne(Make("a", {"1"}, 0, "k1")));
  // The write-ahead log may not grow any more: every write fails from here on.
  struct rlimit before;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 64 << 10;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string noise(100 << 10, 'x');
  test::Random random(1);
  for (char& c : noise) c = static_cast<char>(random());
  const auto failed = fixture.store().AppendOne(Make("a", {noise}, 1, "k2"));
  const auto after = fixture.store().AppendOne(Make("a", {"3"}, 1, "k3"));
  const uint64_t visible = fixture.store().log().size();
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, old_handler);
  CHECK_FALSE(failed.has_value());
  CHECK_FALSE(after.has_value());
  CHECK(visible == 1);
  CHECK_FALSE(fixture.store().error().has_value());
  // Also when the disk has room again: what half-happened is not built upon.
  CHECK_FALSE(fixture.store().AppendOne(Make("a", {"4"})).has_value());
  fixture.Reopen();
  CHECK(ReadAll(fixture.store()) == std::vector<std::string>{"a:1"});
  CHECK(Must(fixture.store().AppendOne(Make("a", {"1"}, 0, "k1"))).repeated);
  CHECK_FALSE(Must(fixture.store().AppendOne(Make("a", {"2"}, 1, "k2"))).repeated);
  Must(fixture.store().log().Verify(nullptr, nullptr));
}

TEST_CASE("a full disk refuses appends, and takes them when it has room again") {
  const TempFolder temp;
  std::atomic<uint64_t> free_bytes = UINT64_MAX;
  EventStoreOptions options;
  options.database.path = temp.Sub("store");
  options.database.resources = test::SmallResources();
  options.database.free_bytes = [&] { return free_bytes.load(); };
  const auto store = Must(EventStore::Open(options));
  Must(store->AppendOne(Make("a", {"1"}, 0)));
  free_bytes = kDiskReserveBytes - 1;
  CHECK(test::ClassOf(store->AppendOne(Make("a", {"2"}, 1, "key"))) == ErrorClass::kExhausted);
  CHECK(store->error().has_value());
  CHECK(store->log().size() == 1);
  free_bytes = kDiskReserveBytes;
  CHECK_FALSE(Must(store->AppendOne(Make("a", {"2"}, 1, "key"))).repeated);
  CHECK(ReadAll(*store) == std::vector<std::string>{"a:1", "a:2"});
  Must(store->log().Verify(nullptr, nullptr));
}

TEST_CASE("large queues are bounded, and everything arrives") {
  StoreFixture fixture;
  const std::string data(4u << 20, 'x');
  std::atomic<int> done{0};
  for (int i = 0; i < 40; ++i) {
    fixture.store().AppendAsync({Make("big", {data})}, [&](auto result) {
      if (result) ++done;
    });
  }
  Must(fixture.store().AppendOne(Make("end", {"x"})));
  CHECK(done == 40);
  CHECK(fixture.store().log().size() == 41);
}

}  // namespace
}  // namespace leat::eventstore
