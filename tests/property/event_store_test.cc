// Random appends, reads and reopenings of an event store against a plain model in memory.
// LEAT_SEED=n repeats a run, LEAT_FULL=1 runs longer.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <random>
#include <thread>

#include "eventstore/event_store.h"
#include "tests/support/test_support.h"

namespace leat::eventstore {
namespace {

using test::Below;
using test::Must;
using test::Random;

struct ModelEvent {
  std::string stream;
  uint64_t version;
  std::string data;
};

struct Model {
  std::vector<ModelEvent> log;
  std::map<std::string, std::vector<uint64_t>> streams;
  struct Key {
    std::vector<std::string> content;
    uint64_t position;
    uint64_t version;
  };
  std::map<std::pair<std::string, std::string>, Key> keys;
};

class Run {
 public:
  explicit Run(uint64_t seed) : random_(seed) {
    options_.database.path = temp_.Sub("store");
    options_.database.resources = test::SmallResources();
    options_.log.source = "leat/property";
    options_.log.index_run_events = 1 + Below(random_, 60);
    Reopen();
  }

  void Reopen() {
    cursor_.reset();
    store_.reset();
    store_ = Must(EventStore::Open(options_));
    cursor_ = std::make_unique<LogCursor>(store_->log().Read(0));
  }

  std::string Stream() {
    return std::string(1, static_cast<char>('a' + Below(random_, 2))) + "-" +
           std::to_string(Below(random_, 12));
  }

  std::string Data() {
    const uint64_t kind = Below(random_, 40);
    return test::RandomBytes(random_, kind == 0 ? Below(random_, 400'000) : Below(random_, 200));
  }

  uint64_t VersionOf(const std::string& stream) {
    const auto found = model_.streams.find(stream);
    return found == model_.streams.end() ? 0 : found->second.size();
  }

  // One atomic append over some streams, with what the model says must come of it.
  void DoAppend() {
    std::vector<Append> appends;
    std::map<std::string, uint64_t> versions;
    std::map<std::pair<std::string, std::string>, int> keys;
    bool conflict = false;
    size_t repeated = 0;
    bool other_content = false, twice = false;
    for (uint64_t left = 1 + Below(random_, 3); left > 0; --left) {
      Append append;
      append.stream = Stream();
      std::vector<std::string> content;
      for (uint64_t n = 1 + Below(random_, 5); n > 0; --n) content.push_back(Data());
      bool known = false;
      if (Below(random_, 3) == 0) {
        append.idempotency_key = "k" + std::to_string(Below(random_, 1000));
        if (Below(random_, 3) == 0 && !model_.keys.empty()) {
          auto pick = model_.keys.begin();
          std::advance(pick, static_cast<long>(Below(random_, model_.keys.size())));
          append.stream = pick->first.first;
          append.idempotency_key = pick->first.second;
          if (Below(random_, 4) != 0) content = pick->second.content;
        }
        const auto key = std::make_pair(append.stream, append.idempotency_key);
        if (++keys[key] > 1) twice = true;
        if (const auto found = model_.keys.find(key); found != model_.keys.end()) {
          known = true;
          ++repeated;
          other_content |= found->second.content != content;
        }
      }
      if (!known) {
        auto [at, fresh] = versions.emplace(append.stream, 0);
        if (fresh) at->second = VersionOf(append.stream);
        if (Below(random_, 3) != 0) {
          append.expected_version = at->second;
          if (Below(random_, 10) == 0) append.expected_version += 1 + Below(random_, 3);
        }
        conflict |= append.expected_version != kAnyVersion && append.expected_version != at->second;
        at->second += content.size();
      }
      for (const std::string& data : content) append.events.push_back(test::DataEvent(data));
      appends.push_back(std::move(append));
    }
    const auto result = store_->AppendAll(appends);
    if (twice || other_content || conflict || (repeated != 0 && repeated != appends.size())) {
      REQUIRE_FALSE(result.has_value());
      REQUIRE((result.error().error_class == ErrorClass::kConflict ||
               (twice && result.error().error_class == ErrorClass::kInvalid)));
      return;
    }
    if (!result) FAIL("refused: ", result.error().Text());
    for (size_t i = 0; i < appends.size(); ++i) {
      const Append& append = appends[i];
      const Appended& got = (*result)[i];
      REQUIRE(got.count == append.events.size());
      REQUIRE(got.repeated == (repeated != 0));
      if (repeated != 0) {
        const auto& key = model_.keys.at({append.stream, append.idempotency_key});
        REQUIRE(got.first_position == key.position);
        REQUIRE(got.first_version == key.version);
        continue;
      }
      REQUIRE(got.first_position == model_.log.size());
      REQUIRE(got.first_version == VersionOf(append.stream) + 1);
      Model::Key key{{}, got.first_position, got.first_version};
      for (const auto& event : append.events) {
        auto& positions = model_.streams[append.stream];
        positions.push_back(model_.log.size());
        model_.log.push_back({append.stream, positions.size(), std::string(event.view().data)});
        key.content.emplace_back(event.view().data);
      }
      if (!append.idempotency_key.empty()) {
        model_.keys.emplace(std::make_pair(append.stream, append.idempotency_key), std::move(key));
      }
    }
  }

  void CheckEvent(const LogEvent& event, uint64_t position) {
    const ModelEvent& expected = model_.log[position];
    REQUIRE(event.position == position);
    REQUIRE(event.stream == expected.stream);
    REQUIRE(event.version == expected.version);
    REQUIRE((Must(event.Decode()).data == expected.data));
  }

  void ReadForwards() {
    uint64_t at = Below(random_, model_.log.size() + 2);
    cursor_->Seek(at);
    LogEvent event;
    for (int i = 0; i < 50; ++i, ++at) {
      const bool found = Must(cursor_->Next(&event));
      REQUIRE(found == (at < model_.log.size()));
      if (!found) return;
      CheckEvent(event, at);
    }
  }

  void ReadBackwards() {
    uint64_t at = Below(random_, model_.log.size() + 2);
    cursor_->Seek(at);
    at = std::min<uint64_t>(at, model_.log.size());
    LogEvent event;
    for (int i = 0; i < 50; ++i) {
      const bool found = Must(cursor_->Previous(&event));
      REQUIRE(found == (at > 0));
      if (!found) return;
      CheckEvent(event, --at);
    }
  }

  void ReadStream() {
    const std::string stream = Stream();
    const uint64_t version = VersionOf(stream);
    REQUIRE(Must(store_->log().PublishedVersion(stream)) == version);
    const uint64_t from = Below(random_, version + 3);
    const size_t count = Below(random_, 30);
    std::vector<uint64_t> expected;
    for (uint64_t v = std::max<uint64_t>(from, 1); v <= version && expected.size() < count; ++v) {
      expected.push_back(model_.streams[stream][v - 1]);
    }
    REQUIRE(Must(store_->log().StreamPositions(stream, from, count)) == expected);
  }

  void List() {
    const std::string prefix = Below(random_, 2) == 0 ? "" : "b";
    const std::string after = Below(random_, 2) == 0 ? "" : Stream();
    const size_t count = 1 + Below(random_, 8);
    std::vector<std::string> expected, got;
    for (const auto& [name, positions] : model_.streams) {
      if (name.starts_with(prefix) && name > after && expected.size() < count) {
        expected.push_back(name + "@" + std::to_string(positions.size()));
      }
    }
    for (const auto& info : Must(store_->log().ListStreams(prefix, after, count))) {
      got.push_back(info.name + "@" + std::to_string(info.version));
    }
    REQUIRE(got == expected);
  }

  void Steps(int count) {
    for (int step = 0; step < count; ++step) {
      INFO("step ", step);
      switch (Below(random_, 30)) {
        case 0: Reopen(); break;
        case 1: case 2: case 3: ReadForwards(); break;
        case 4: case 5: case 6: ReadBackwards(); break;
        case 7: case 8: case 9: case 10: ReadStream(); break;
        case 11: List(); break;
        case 12:
          if (Below(random_, 10) == 0) Verify();
          break;
        default: DoAppend();
      }
    }
    Verify();
    Reopen();
    Verify();
  }

  void Verify() {
    REQUIRE(store_->log().size() == model_.log.size());
    const auto report = Must(store_->log().Verify(nullptr, nullptr));
    REQUIRE(report.events == model_.log.size());
    REQUIRE(report.streams == model_.streams.size());
    REQUIRE(report.root == store_->log().Root());
    cursor_->Seek(0);
    LogEvent event;
    for (uint64_t i = 0; i < model_.log.size(); ++i) {
      REQUIRE(Must(cursor_->Next(&event)));
      CheckEvent(event, i);
    }
  }

 private:
  test::TempFolder temp_;
  Random random_;
  EventStoreOptions options_;
  Model model_;
  std::unique_ptr<EventStore> store_;
  std::unique_ptr<LogCursor> cursor_;
};

TEST_CASE("an event store answers as a plain model does") {
  uint64_t seed = test::Seed(std::random_device{}());
#ifdef __SANITIZE_THREAD__
  constexpr int kRoundsInFull = 8;  // several times as slow
#else
  constexpr int kRoundsInFull = 40;
#endif
  const int rounds = test::Full() ? kRoundsInFull : 4;
  const int steps = test::Full() ? 1500 : 400;
  for (int round = 0; round < rounds; ++round, ++seed) {
    std::printf("event_store_test: LEAT_SEED=%llu\n", static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    INFO("LEAT_SEED=", seed);
    Run run(seed);
    run.Steps(steps);
  }
}

}  // namespace
}  // namespace leat::eventstore
