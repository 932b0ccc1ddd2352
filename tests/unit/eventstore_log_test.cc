#include "eventstore/log.h"

#include <doctest/doctest.h>

#include <atomic>
#include <map>
#include <thread>

#include "core/bytes.h"
#include "core/hash.h"
#include "tests/support/test_support.h"

namespace leat::eventstore {
namespace {

using test::Below;
using test::DataEvent;
using test::Must;
using test::Random;
using test::TempFolder;

// A log in a database of its own, that can be closed and opened again.
class LogFixture {
 public:
  explicit LogFixture(uint64_t index_run_events = 262'144, std::string source = "leat/test-0") {
    options_.source = std::move(source);
    options_.index_run_events = index_run_events;
    options_.clock = &clock_;
    Open();
  }
  void Open() {
    DatabaseOptions database;
    database.path = temp_.Sub("db");
    database.resources = test::SmallResources();
    database_ = Must(Database::Open(database));
    log_ = Must(Log::Open(database_.get(), options_));
  }
  void Close() {
    log_.reset();
    database_.reset();
  }
  void Reopen() {
    Close();
    Open();
  }
  Result<std::unique_ptr<Log>> TryOpen() {
    log_.reset();
    return Log::Open(database_.get(), options_);
  }
  void Commit() {
    Batch batch(*database_);
    log_->Seal(&batch);
    Must(database_->Write(batch, false));
    log_->Publish();
  }
  uint64_t Append(std::string_view stream, std::string_view data) {
    const uint64_t position = Must(log_->Add(stream, DataEvent(data).view()));
    Commit();
    return position;
  }

  std::string path() const { return temp_.Sub("db"); }
  Log& log() { return *log_; }
  Database& database() { return *database_; }
  test::ManualClock& clock() { return clock_; }
  LogOptions& options() { return options_; }

 private:
  TempFolder temp_;
  test::ManualClock clock_;
  LogOptions options_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<Log> log_;
};

std::vector<std::string> ReadData(const Log& log, uint64_t from = 0) {
  std::vector<std::string> out;
  LogCursor cursor = log.Read(from);
  LogEvent event;
  while (Must(cursor.Next(&event))) {
    CHECK(event.position == from + out.size());
    out.emplace_back(Must(event.Decode()).data);
  }
  return out;
}

size_t Records(Database& database) {
  size_t count = 0;
  const auto iterator = database.NewIterator(Family::kLog);
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) ++count;
  return count;
}

// Waits until the background indexer has ingested up to `position`.
void WaitIndexed(Database& database, uint64_t position) {
  for (int i = 0; i < 3000; ++i) {
    std::string value;
    if (Must(database.Get(Family::kMeta, "index/to", &value)) &&
        core::LoadBigEndian64(value.data()) >= position) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL("the index was not written");
}

std::string Key(uint64_t position) {
  std::string key;
  core::AppendBigEndian64(position, &key);
  return key;
}

void PutRecord(Database& database, uint64_t position, std::string_view bytes) {
  Batch batch(database);
  batch.Put(Family::kLog, Key(position), bytes);
  Must(database.Write(batch, false));
}

std::string GetRecord(Database& database, uint64_t position) {
  std::string bytes;
  REQUIRE(Must(database.Get(Family::kLog, Key(position), &bytes)));
  return bytes;
}

TEST_CASE("an empty log") {
  LogFixture fixture;
  CHECK(fixture.log().size() == 0);
  CHECK(fixture.log().NextPosition() == 0);
  CHECK(fixture.log().Root() == core::Sha256(""));
  CHECK(ReadData(fixture.log()).empty());
  LogCursor cursor = fixture.log().Read(0);
  LogEvent event;
  CHECK_FALSE(Must(cursor.Previous(&event)));
  cursor.Seek(1000);
  CHECK_FALSE(Must(cursor.Next(&event)));
  CHECK_FALSE(Must(cursor.Previous(&event)));
  CHECK_FALSE(fixture.log().WaitFor(0, std::chrono::milliseconds(1)));
  const auto report = Must(fixture.log().Verify(nullptr, nullptr));
  CHECK(report.events == 0);
  CHECK(report.root == core::Sha256(""));
  CHECK(Must(fixture.log().StreamPositions("s", 1, 10)).empty());
  CHECK(Must(fixture.log().PublishedVersion("s")) == 0);
  CHECK(Must(fixture.log().ListStreams("", "", 10)).empty());
  fixture.Reopen();
  CHECK(fixture.log().size() == 0);
}

TEST_CASE("what was committed is there after reopening, and what was not is not") {
  LogFixture fixture;
  const uint32_t incarnation = fixture.log().incarnation();
  CHECK(incarnation != 0);
  std::vector<std::string> expected;
  for (int i = 0; i < 10; ++i) {
    for (int j = 0; j <= i; ++j) {
      const std::string data = std::to_string(i) + "." + std::to_string(j);
      Must(fixture.log().Add("stream-" + std::to_string(j % 3), DataEvent(data).view()));
      expected.push_back(data);
    }
    fixture.Commit();
  }
  Must(fixture.log().Add("stream-0", DataEvent("not committed").view()));
  CHECK(fixture.log().size() == expected.size());
  CHECK(ReadData(fixture.log()) == expected);
  CHECK(Must(fixture.log().PublishedVersion("stream-0")) == 22);
  CHECK(Must(fixture.log().StreamVersion("stream-0")) == 23);
  const Hash root = fixture.log().Root();
  for (int i = 0; i < 3; ++i) {
    fixture.Reopen();
    CHECK(fixture.log().incarnation() == incarnation);
    CHECK(fixture.log().size() == expected.size());
    CHECK(fixture.log().Root() == root);
    CHECK(ReadData(fixture.log()) == expected);
    CHECK(Must(fixture.log().StreamVersion("stream-0")) == 22);
  }
  const auto report = Must(fixture.log().Verify(nullptr, nullptr));
  CHECK(report.events == expected.size());
  CHECK(report.records == 10);
  CHECK(report.streams == 3);
  CHECK(report.root == root);
  // Positions go on without a gap.
  CHECK(fixture.Append("stream-0", "next") == expected.size());
}

TEST_CASE("an abandoned commit leaves no trace") {
  LogFixture fixture;
  fixture.Append("a", "1");
  const Hash root = fixture.log().Root();
  // More than a record, and a stream that nothing else names.
  const std::string large(200u << 10, 'x');
  for (int i = 0; i < 3; ++i) Must(fixture.log().Add("a", DataEvent(large).view()));
  Must(fixture.log().Add("b", DataEvent("never").view()));
  SUBCASE("before it is sealed") {}
  SUBCASE("after") {
    Batch batch(fixture.database());
    fixture.log().Seal(&batch);
  }
  fixture.log().Abandon();
  CHECK(fixture.log().StagedBytes() == 0);
  CHECK(fixture.log().NextPosition() == 1);
  CHECK(Must(fixture.log().StreamVersion("a")) == 1);
  CHECK(Must(fixture.log().StreamVersion("b")) == 0);
  fixture.Commit();
  CHECK(fixture.log().size() == 1);
  CHECK(fixture.log().Root() == root);
  CHECK(fixture.Append("b", "2") == 1);
  fixture.Append("a", "3");
  CHECK(ReadData(fixture.log()) == std::vector<std::string>{"1", "2", "3"});
  CHECK(Must(fixture.log().StreamPositions("a", 1, 10)) == std::vector<uint64_t>{0, 2});
  Must(fixture.log().Verify(nullptr, nullptr));
  fixture.Reopen();
  CHECK(ReadData(fixture.log()) == std::vector<std::string>{"1", "2", "3"});
}

TEST_CASE("a log that is created anew has another incarnation") {
  LogFixture a, b;
  CHECK(a.log().incarnation() != b.log().incarnation());
}

TEST_CASE("attributes that the entry says are left out and filled in") {
  LogFixture fixture;
  fixture.clock().Set(1'700'000'000'000'000);  // a commit has the time of its first event
  test::EventParts parts;
  parts.subject = "account-7";
  parts.source = "leat/test-0";
  parts.data = std::string(10, 'x');
  Must(fixture.log().Add("account-7", test::MakeEvent(parts).view()));
  parts.subject = "other";
  parts.source = "foreign";
  Must(fixture.log().Add("account-7", test::MakeEvent(parts).view()));
  parts.subject = "";
  parts.source = "";
  Must(fixture.log().Add("account-7", test::MakeEvent(parts).view()));
  fixture.Commit();
  for (int round = 0; round < 2; ++round) {
    if (round > 0) fixture.Reopen();
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    REQUIRE(Must(cursor.Next(&event)));
    CHECK(event.envelope.find("account-7") == std::string_view::npos);
    CHECK(event.envelope.find("leat/test-0") == std::string_view::npos);
    CHECK(event.commit_time_us == 1'700'000'000'000'000);
    auto view = Must(event.Decode());
    CHECK(view.subject == "account-7");
    CHECK(view.streamversion == 1);
    CHECK(view.source == "leat/test-0");
    REQUIRE(Must(cursor.Next(&event)));
    view = Must(event.Decode());
    CHECK(view.subject == "other");
    CHECK_FALSE(view.streamversion.has_value());
    CHECK(view.source == "foreign");
    CHECK(event.version == 2);
    REQUIRE(Must(cursor.Next(&event)));
    view = Must(event.Decode());
    CHECK(view.subject == "account-7");
    CHECK(view.streamversion == 3);
    CHECK(view.source == "leat/test-0");
  }
}

TEST_CASE("a log of whole events gives them back as they came") {
  LogFixture fixture(262'144, "");
  fixture.Close();
  fixture.options().whole = true;
  fixture.Open();
  Random random(7);
  std::vector<events::Event> in;
  for (int i = 0; i < 64; ++i) {
    events::EventView view;
    view.type = "t.v1";
    view.time_us = i;
    const std::string subject = i % 2 == 0 ? "" : i % 4 == 1 ? "topic/0" : "elsewhere";
    view.subject = subject;
    if (i % 3 == 0) view.streamversion = static_cast<uint64_t>(i);
    if (i % 5 == 0) view.source = "s";
    if (i % 7 == 0) view.cause = events::Cause{"in", 3, 9, 1, 2};
    const std::string data = test::RandomBytes(random, Below(random, 50));
    view.data = data;
    in.emplace_back(view);
    Must(fixture.log().Add("topic/0", in.back().view()));
    if (i % 4 == 0) fixture.Commit();
  }
  fixture.Commit();
  fixture.Reopen();
  LogCursor cursor = fixture.log().Read(0);
  LogEvent event;
  for (const auto& expected : in) {
    REQUIRE(Must(cursor.Next(&event)));
    CHECK(event.stream == "topic/0");
    test::CheckSame(Must(event.Decode()), expected.view());
  }
  Must(fixture.log().Verify(nullptr, nullptr));
}

TEST_CASE("stream names that are none") {
  LogFixture fixture;
  for (const std::string& name : {std::string(), std::string(kStreamBytesMax + 1, 'a'),
                                  std::string("a\0b", 3)}) {
    CHECK(test::ClassOf(fixture.log().Add(name, DataEvent("x").view())) == ErrorClass::kInvalid);
  }
  CHECK(fixture.Append(std::string(kStreamBytesMax, 'a'), "x") == 0);
}

TEST_CASE("a commit above 256 KiB is split into linked records, and is there whole or not at all") {
  LogFixture fixture;
  fixture.Append("small", "before");
  Random random(11);
  std::vector<std::string> expected{"before"};
  // 40 events of 30 KiB and one of 3 MiB.
  for (int i = 0; i < 41; ++i) {
    const size_t size = i == 20 ? 3u << 20 : 30u << 10;
    const std::string data = test::RandomBytes(random, size);
    Must(fixture.log().Add("big-" + std::to_string(i % 2), DataEvent(data).view()));
    expected.push_back(data);
  }
  CHECK(fixture.log().size() == 1);
  CHECK(fixture.log().StagedBytes() > 4u << 20);
  fixture.Commit();
  CHECK(fixture.log().StagedBytes() == 0);
  CHECK(fixture.log().size() == 42);
  const size_t records = Records(fixture.database());
  CHECK(records >= 8);
  auto iterator = fixture.database().NewIterator(Family::kLog);
  size_t oversize = 0;
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
    // Only a record with a single large event is above the limit.
    oversize += iterator->value().size() > kRecordBytesMax + 128;
  }
  iterator.reset();
  CHECK(oversize == 1);
  CHECK((ReadData(fixture.log()) == expected));
  fixture.Reopen();
  CHECK((ReadData(fixture.log()) == expected));
  CHECK(Must(fixture.log().Verify(nullptr, nullptr)).records == records);

  // Not written: nothing of it is there.
  for (int i = 0; i < 41; ++i) {
    Must(fixture.log().Add("lost", DataEvent(test::RandomBytes(random, 30u << 10)).view()));
  }
  {
    Batch batch(fixture.database());
    fixture.log().Seal(&batch);
  }
  fixture.Reopen();
  CHECK(fixture.log().size() == 42);
  CHECK(Must(fixture.log().PublishedVersion("lost")) == 0);
  Must(fixture.log().Verify(nullptr, nullptr));
}

TEST_CASE("a commit whose last record is gone is not read as a shorter one") {
  LogFixture fixture;
  for (int i = 0; i < 30; ++i) {
    Must(fixture.log().Add("s", DataEvent(std::string(30u << 10, 'x')).view()));
  }
  fixture.Commit();
  REQUIRE(Records(fixture.database()) > 2);
  auto iterator = fixture.database().NewIterator(Family::kLog);
  iterator->SeekToLast();
  Batch batch(fixture.database());
  batch.Delete(Family::kLog, iterator->key());
  Must(fixture.database().Write(batch, false));
  iterator.reset();
  const auto opened = fixture.TryOpen();
  CHECK(test::ClassOf(opened) == ErrorClass::kCorrupt);
}

TEST_CASE("a cursor walks forwards and backwards from anywhere") {
  const uint64_t seed = test::Seed(20'150'730);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  LogFixture fixture;
  std::vector<std::string> expected;
  while (expected.size() < 400) {
    for (uint64_t left = 1 + Below(random, 20); left > 0; --left) {
      expected.push_back(test::RandomBytes(random, Below(random, 3000)));
      Must(fixture.log().Add("s", DataEvent(expected.back()).view()));
    }
    fixture.Commit();
  }
  for (const bool reopened : {false, true}) {
    CAPTURE(reopened);
    if (reopened) fixture.Reopen();
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    uint64_t at = 0;
    for (int step = 0; step < 6000; ++step) {
      switch (Below(random, 20)) {
        case 0:
          at = Below(random, expected.size() + 3);
          cursor.Seek(at);
          break;
        case 1: case 2: case 3: case 4: case 5: case 6: case 7: case 8: {
          const bool found = Must(cursor.Previous(&event));
          at = std::min<uint64_t>(at, expected.size());
          REQUIRE(found == (at > 0));
          if (found) {
            --at;
            REQUIRE(event.position == at);
            REQUIRE((Must(event.Decode()).data == expected[at]));
            REQUIRE(event.version == at + 1);
          }
          break;
        }
        default: {
          const bool found = Must(cursor.Next(&event));
          REQUIRE(found == (at < expected.size()));
          if (found) {
            REQUIRE(event.position == at);
            REQUIRE((Must(event.Decode()).data == expected[at]));
            ++at;
          }
        }
      }
    }
    // The whole log backwards.
    cursor.Seek(fixture.log().size());
    for (uint64_t i = expected.size(); i-- > 0;) {
      REQUIRE(Must(cursor.Previous(&event)));
      REQUIRE(event.position == i);
      REQUIRE((Must(event.Decode()).data == expected[i]));
    }
    CHECK_FALSE(Must(cursor.Previous(&event)));
  }
}

TEST_CASE("commit times never go back") {
  LogFixture fixture;
  fixture.clock().Set(2'000'000);
  fixture.Append("s", "a");
  fixture.clock().Set(1'000'000);
  fixture.Append("s", "b");
  fixture.Reopen();
  fixture.Append("s", "c");
  fixture.clock().Set(3'000'000);
  fixture.Append("s", "d");
  LogCursor cursor = fixture.log().Read(0);
  LogEvent event;
  for (const int64_t expected : {2'000'000, 2'000'000, 2'000'000, 3'000'000}) {
    REQUIRE(Must(cursor.Next(&event)));
    CHECK(event.commit_time_us == expected);
  }
}

TEST_CASE("catch up, then live: no gap and no duplicate at the seam") {
  LogFixture fixture(64);
  constexpr uint64_t kEvents = 6000;
  std::atomic<bool> failed{false};
  // Readers begin at once and late, with waits, along the log and along a stream.
  const auto follow = [&](uint64_t begin_at) {
    while (fixture.log().size() < begin_at) std::this_thread::yield();
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    for (uint64_t next = 0; next < kEvents;) {
      if (!fixture.log().WaitFor(next, std::chrono::seconds(30))) {
        failed = true;
        return;
      }
      for (;;) {
        const auto more = cursor.Next(&event);
        if (!more || (*more && (event.position != next ||
                                event.Decode()->data != std::to_string(next)))) {
          failed = true;
          return;
        }
        if (!*more) break;
        ++next;
      }
    }
  };
  const auto follow_stream = [&](const std::string& stream) {
    uint64_t version = 0;
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    while (version < kEvents / 4) {
      const uint64_t size = fixture.log().size();
      const auto positions = fixture.log().StreamPositions(stream, version + 1, 7);
      if (!positions) {
        failed = true;
        return;
      }
      for (const uint64_t position : *positions) {
        cursor.Seek(position);
        const auto found = cursor.Next(&event);
        // What the index tells can be read.
        if (!found || !*found || event.stream != stream || event.version != version + 1) {
          failed = true;
          return;
        }
        ++version;
      }
      const auto published = fixture.log().PublishedVersion(stream);
      if (!published || *published < version) failed = true;
      if (positions->empty() && !fixture.log().WaitFor(size, std::chrono::seconds(30))) {
        failed = true;
        return;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (const uint64_t begin_at : {0, 1000, 5000}) threads.emplace_back(follow, begin_at);
    for (const char* stream : {"s-0", "s-3"}) threads.emplace_back(follow_stream, stream);
    Random random(3);
    for (uint64_t i = 0; i < kEvents;) {
      for (uint64_t left = 1 + Below(random, 10); left > 0 && i < kEvents; --left, ++i) {
        Must(fixture.log().Add("s-" + std::to_string(i % 4), DataEvent(std::to_string(i)).view()));
      }
      fixture.Commit();
    }
  }
  CHECK_FALSE(failed);
  CHECK(fixture.log().size() == kEvents);
}

TEST_CASE("what a stream's index tells can be read at once") {
  // Many tiny commits and readers that never wait: whoever sees a version must be able to read its event.
  LogFixture fixture;
  constexpr uint64_t kEvents = 4000;
  std::atomic<bool> done{false};
  std::atomic<uint64_t> unreadable{0};
  const auto look = [&] {
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    while (!done) {
      const uint64_t version = *fixture.log().PublishedVersion("s");
      if (version == 0) continue;
      const auto positions = fixture.log().StreamPositions("s", version, 1);
      if (positions->empty() || positions->front() >= fixture.log().size()) {
        ++unreadable;
        continue;
      }
      cursor.Seek(positions->front());
      const auto found = cursor.Next(&event);
      if (!found || !*found) ++unreadable;
      const auto newest = fixture.log().StreamPositionsBackward("s", UINT64_MAX, 1);
      if (newest->front() >= fixture.log().size()) ++unreadable;
    }
  };
  {
    std::jthread a(look), b(look);
    for (uint64_t i = 0; i < kEvents; ++i) fixture.Append("s", "x");
    done = true;
  }
  CHECK(unreadable == 0);
}

TEST_CASE("Wake ends a wait that is under way") {
  LogFixture fixture;
  std::atomic<bool> returned = false;
  std::jthread waiter([&] {
    CHECK_FALSE(fixture.log().WaitFor(0, std::chrono::seconds(60)));
    returned = true;
  });
  // It may not be waiting yet when the first one comes.
  while (!returned) fixture.log().Wake();
}

// ---- streams

TEST_CASE("streams before, during and after their runs are ingested, and after reopening") {
  const uint64_t seed = test::Seed(42);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  constexpr uint64_t kRun = 32;
  LogFixture fixture(kRun);
  std::map<std::string, std::vector<uint64_t>> model;
  const auto check = [&](const std::string& stream) {
    const auto& expected = model[stream];
    REQUIRE(Must(fixture.log().PublishedVersion(stream)) == expected.size());
    REQUIRE(Must(fixture.log().StreamPositions(stream, 1, SIZE_MAX)) == expected);
    REQUIRE(Must(fixture.log().StreamPositions(stream, 0, SIZE_MAX)) == expected);
    REQUIRE(Must(fixture.log().StreamPositions(stream, expected.size() + 1, 5)).empty());
    const uint64_t from = 1 + Below(random, expected.size() + 2);
    const size_t count = Below(random, 20);
    std::vector<uint64_t> part;
    for (size_t i = from - 1; i < expected.size() && part.size() < count; ++i) {
      part.push_back(expected[i]);
    }
    REQUIRE(Must(fixture.log().StreamPositions(stream, from, count)) == part);
  };
  const auto name = [&] { return "s" + std::string(1 + Below(random, 3), 'a') +
                                 std::to_string(Below(random, 4)); };
  for (int round = 0; round < 400; ++round) {
    for (uint64_t left = 1 + Below(random, 12); left > 0; --left) {
      const std::string stream = name();
      const uint64_t position = Must(fixture.log().Add(stream, DataEvent("x").view()));
      model[stream].push_back(position);
    }
    fixture.Commit();
    check(name());
    if (round % 97 == 50) {
      fixture.Reopen();
      for (const auto& [stream, positions] : model) check(stream);
    }
  }
  for (const auto& [stream, positions] : model) check(stream);
  // Enough commits after it that every full run was handed over.
  WaitIndexed(fixture.database(), kRun);
  for (const auto& [stream, positions] : model) check(stream);
  fixture.Reopen();
  for (const auto& [stream, positions] : model) check(stream);

  // Listing: pages, prefixes, names that begin with other names.
  std::vector<std::string> names;
  for (const auto& [stream, positions] : model) names.push_back(stream);
  for (const std::string prefix : {"", "s", "sa", "saa", "saaa", "saaa1", "t"}) {
    std::vector<std::string> expected, listed;
    for (const auto& stream : names) {
      if (stream.starts_with(prefix)) expected.push_back(stream);
    }
    std::string after;
    for (;;) {
      const auto page = Must(fixture.log().ListStreams(prefix, after, 5));
      for (const auto& info : page) {
        listed.push_back(info.name);
        CHECK(info.version == model[info.name].size());
      }
      if (page.size() < 5) break;
      after = page.back().name;
    }
    CHECK(listed == expected);
  }
}

TEST_CASE("listing merges what is in memory with what is ingested") {
  LogFixture fixture(4);
  for (const char* stream : {"b", "d", "f", "h"}) fixture.Append(stream, "x");
  WaitIndexed(fixture.database(), 4);
  for (const char* stream : {"a", "d", "e"}) fixture.Append(stream, "x");
  const auto all = Must(fixture.log().ListStreams("", "", 100));
  std::string text;
  for (const auto& info : all) text += info.name + std::to_string(info.version) + " ";
  CHECK(text == "a1 b1 d2 e1 f1 h1 ");
  text.clear();
  std::string after;
  for (;;) {
    const auto page = Must(fixture.log().ListStreams("", after, 2));
    if (page.empty()) break;
    for (const auto& info : page) text += info.name;
    after = page.back().name;
  }
  CHECK(text == "abdefh");
}

TEST_CASE("a run that cannot be written is tried again, and holds the writer when too many wait") {
  constexpr uint64_t kRun = 4;
  LogFixture fixture(kRun);
  // Folders that cannot be removed stand where the runs would.
  const auto run = [&](int i) { return fixture.path() + "/run-" + std::to_string(i) + ".tmp"; };
  constexpr int kRuns = 200;
  for (int i = 0; i < kRuns; ++i) std::filesystem::create_directories(run(i) + "/full");
  uint64_t taken = 0;
  while (fixture.log().CheckRoom()) {
    REQUIRE(taken < 100 * kRun);
    fixture.Append("s", std::to_string(taken++));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(test::ClassOf(fixture.log().CheckRoom()) == ErrorClass::kExhausted);
  CHECK(taken >= 8 * kRun);
  CHECK(Must(fixture.log().StreamPositions("s", 1, 1000)).size() == taken);
  for (int i = 0; i < kRuns; ++i) std::filesystem::remove_all(run(i));
  // The run that failed, and not only a next one.
  WaitIndexed(fixture.database(), kRun);
  fixture.Append("s", "x");
  WaitIndexed(fixture.database(), taken);
  Must(fixture.log().CheckRoom());
  fixture.Reopen();
  CHECK(Must(fixture.log().StreamPositions("s", 1, 1000)).size() == taken + 1);
}

TEST_CASE("a run that was ingested but not noted is ingested again") {
  // A crash between the two steps: the note is taken away.
  LogFixture fixture(8);
  for (int i = 0; i < 20; ++i) fixture.Append("s-" + std::to_string(i % 3), "x");
  WaitIndexed(fixture.database(), 8);
  fixture.Reopen();
  Batch batch(fixture.database());
  batch.Delete(Family::kMeta, "index/to");
  Must(fixture.database().Write(batch, false));
  fixture.Reopen();
  for (int i = 20; i < 40; ++i) fixture.Append("s-" + std::to_string(i % 3), "x");
  fixture.Reopen();
  for (int stream = 0; stream < 3; ++stream) {
    std::vector<uint64_t> expected;
    for (int i = stream; i < 40; i += 3) expected.push_back(static_cast<uint64_t>(i));
    CHECK(Must(fixture.log().StreamPositions("s-" + std::to_string(stream), 1, 100)) == expected);
  }
  Must(fixture.log().Verify(nullptr, nullptr));
}

TEST_CASE("a run that a killed process left is not written over: it may be a name of a live file") {
  LogFixture fixture(8);
  for (int i = 0; i < 8; ++i) fixture.Append("s", "x");
  WaitIndexed(fixture.database(), 8);
  fixture.Close();
  std::filesystem::path live;
  for (const auto& entry : std::filesystem::directory_iterator(fixture.path())) {
    if (entry.path().extension() == ".sst") live = entry.path();
  }
  REQUIRE_FALSE(live.empty());
  const auto run = [&](int i) { return fixture.path() + "/run-" + std::to_string(i) + ".tmp"; };
  constexpr int kRuns = 8;
  for (int i = 0; i < kRuns; ++i) std::filesystem::create_hard_link(live, run(i));
  SUBCASE("at the start they go") {
    fixture.Open();
    for (int i = 0; i < kRuns; ++i) REQUIRE_FALSE(std::filesystem::exists(run(i)));
  }
  SUBCASE("and beside a running database they are not opened") {
    for (int i = 0; i < kRuns; ++i) std::filesystem::remove(run(i));
    fixture.Open();
    for (int i = 0; i < kRuns; ++i) std::filesystem::create_hard_link(live, run(i));
  }
  for (int i = 8; i < 16; ++i) fixture.Append("s", "x");
  WaitIndexed(fixture.database(), 16);
  Must(fixture.database().VerifyChecksums());
  fixture.Reopen();
  CHECK(Must(fixture.log().StreamPositions("s", 1, 100)).size() == 16);
}

// ---- verify

TEST_CASE("verify finds every flipped byte of a record") {
  LogFixture fixture;
  for (int i = 0; i < 3; ++i) fixture.Append("s", "some data " + std::to_string(i));
  const std::string good = GetRecord(fixture.database(), 1);
  for (size_t at = 0; at < good.size(); ++at) {
    for (const int bit : {0, 1, 3, 7}) {
      CAPTURE(at);
      CAPTURE(bit);
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ 1 << bit);
      PutRecord(fixture.database(), 1, bad);
      const auto report = fixture.log().Verify(nullptr, nullptr);
      REQUIRE_FALSE(report.has_value());
      CHECK(report.error().message.find("position 1") != std::string::npos);
      // The version byte may as well say that a newer leat wrote it.
      const bool newer = at == 0 && report.error().error_class == ErrorClass::kUnsupported;
      CHECK((newer || report.error().error_class == ErrorClass::kCorrupt));
    }
  }
  PutRecord(fixture.database(), 1, good);
  Must(fixture.log().Verify(nullptr, nullptr));
}

TEST_CASE("readers stop at a record that does not check") {
  LogFixture fixture(100);
  fixture.Append("s", "first");
  // Enough that what comes before is below the tree's checkpoint.
  for (int i = 0; i < 9000; ++i) Must(fixture.log().Add("s", DataEvent("x").view()));
  fixture.Commit();
  for (int i = 0; i < 200; ++i) fixture.Append("s", "y");
  WaitIndexed(fixture.database(), 9001);
  const std::string good = GetRecord(fixture.database(), 1);
  for (const size_t at : {size_t{0}, size_t{1}, size_t{9}, size_t{10}, size_t{60}, good.size() - 1}) {
    CAPTURE(at);
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    PutRecord(fixture.database(), 1, bad);
    fixture.Reopen();  // from the checkpoint on: this record is behind it
    LogCursor cursor = fixture.log().Read(0);
    LogEvent event;
    CHECK(Must(cursor.Next(&event)));
    CHECK_FALSE(cursor.Next(&event).has_value());
    cursor.Seek(100);
    CHECK_FALSE(cursor.Previous(&event).has_value());
  }
}

TEST_CASE("verify finds a record that is cut short, removed, moved or strange") {
  LogFixture fixture;
  for (int i = 0; i < 5; ++i) fixture.Append("s", "some data " + std::to_string(i));
  const std::string second = GetRecord(fixture.database(), 1);
  const std::string third = GetRecord(fixture.database(), 2);
  const auto corrupt = [&] {
    const auto report = fixture.log().Verify(nullptr, nullptr);
    return !report && report.error().error_class == ErrorClass::kCorrupt;
  };
  for (size_t size = 0; size < second.size(); ++size) {
    PutRecord(fixture.database(), 1, second.substr(0, size));
    CHECK(corrupt());
  }
  PutRecord(fixture.database(), 1, second + "x");
  CHECK(corrupt());
  // Two change places.
  PutRecord(fixture.database(), 1, third);
  CHECK(corrupt());
  PutRecord(fixture.database(), 2, second);
  CHECK(corrupt());
  PutRecord(fixture.database(), 1, second);
  PutRecord(fixture.database(), 2, third);
  Must(fixture.log().Verify(nullptr, nullptr));
  for (const uint64_t gone : {0, 2, 4}) {
    const std::string bytes = GetRecord(fixture.database(), gone);
    Batch batch(fixture.database());
    batch.Delete(Family::kLog, Key(gone));
    Must(fixture.database().Write(batch, false));
    CHECK(corrupt());
    PutRecord(fixture.database(), gone, bytes);
  }
  // A row that is no record.
  Batch batch(fixture.database());
  batch.Put(Family::kLog, "abc", "x");
  Must(fixture.database().Write(batch, false));
  // It sorts behind the records: opening meets it.
  CHECK(test::ClassOf(fixture.TryOpen()) == ErrorClass::kCorrupt);
}

TEST_CASE("a cut tail is found against a noted root, and at the next start where the tree shows it") {
  LogFixture fixture;
  for (int i = 0; i < 5; ++i) fixture.Append("s", std::to_string(i));
  const Log::NotedRoot noted{fixture.log().size(), fixture.log().Root()};
  Must(fixture.log().Verify(&noted, nullptr));
  Batch batch(fixture.database());
  batch.Delete(Family::kLog, Key(4));
  Must(fixture.database().Write(batch, false));
  fixture.Reopen();
  CHECK(fixture.log().size() == 4);
  Must(fixture.log().Verify(nullptr, nullptr));  // by itself it looks whole
  const auto cut = fixture.log().Verify(&noted, nullptr);
  CHECK(test::ClassOf(cut) == ErrorClass::kCorrupt);
  CHECK(cut.error().message.find("tail was cut") != std::string::npos);
  // Grown over the old length with other events.
  for (int i = 0; i < 5; ++i) fixture.Append("s", "other " + std::to_string(i));
  const auto other = fixture.log().Verify(&noted, nullptr);
  CHECK(test::ClassOf(other) == ErrorClass::kCorrupt);
  CHECK(other.error().message.find(noted.root.Hex()) != std::string::npos);
}

TEST_CASE("a log rewritten with right checksums is found against a noted root of any size") {
  LogFixture original, forged;
  std::vector<Log::NotedRoot> noted{{0, original.log().Root()}};
  for (int i = 0; i < 6; ++i) {
    original.Append("s", "true " + std::to_string(i));
    noted.push_back({original.log().size(), original.log().Root()});
    forged.Append("s", i == 3 ? "forged" : "true " + std::to_string(i));
  }
  // The forger's records into the original's database: checksums, roots and versions are right.
  const auto iterator = forged.database().NewIterator(Family::kLog);
  Batch batch(original.database());
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
    batch.Put(Family::kLog, iterator->key(), iterator->value());
  }
  Must(original.database().Write(batch, false));
  original.Reopen();
  Must(original.log().Verify(nullptr, nullptr));
  for (const auto& root : noted) {
    CAPTURE(root.size);
    const auto report = original.log().Verify(&root, nullptr);
    CHECK(report.has_value() == (root.size <= 3));
  }
}

TEST_CASE("verify finds a header that was rewritten with a right checksum") {
  // Source and commit time stand once in a record, and every leaf of it covers them.
  LogFixture fixture;
  fixture.Append("s", "some data");
  const std::string record = GetRecord(fixture.database(), 0);
  Must(fixture.log().Verify(nullptr, nullptr));
  const auto found_when_changed = [&](size_t at) {
    std::string changed = record;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    std::string checksum;
    core::AppendBigEndian64(core::Checksum64(std::string_view(changed).substr(9)), &checksum);
    changed.replace(1, 8, checksum);
    PutRecord(fixture.database(), 0, changed);
    const auto report = fixture.log().Verify(nullptr, nullptr);
    return !report && report.error().message.find("root") != std::string::npos;
  };
  CHECK(found_when_changed(record.find("leat/test-0")));
  CHECK(found_when_changed(11));  // behind version, checksum, flags and count: the commit time
}

TEST_CASE("verify meets a root noted in the middle of a record") {
  LogFixture fixture;
  std::vector<Hash> roots;
  LogFixture one_by_one;
  for (int i = 0; i < 20; ++i) {
    Must(fixture.log().Add("s", DataEvent(std::to_string(i)).view()));
    one_by_one.Append("s", std::to_string(i));
    roots.push_back(one_by_one.log().Root());
  }
  fixture.Commit();
  CHECK(fixture.log().Root() == one_by_one.log().Root());
  for (uint64_t i = 0; i < roots.size(); ++i) {
    Log::NotedRoot noted{i + 1, roots[i]};
    Must(fixture.log().Verify(&noted, nullptr));
    noted.root.data[0] ^= 1;
    CHECK(test::ClassOf(fixture.log().Verify(&noted, nullptr)) == ErrorClass::kCorrupt);
  }
}

TEST_CASE("verify beside a writer") {
  LogFixture fixture(64);
  for (int i = 0; i < 200; ++i) fixture.Append("s", std::to_string(i));
  std::atomic<bool> done{false};
  std::jthread verifier([&] {
    while (!done) {
      const auto report = fixture.log().Verify(nullptr, nullptr);
      if (!report) {
        CHECK_MESSAGE(false, report.error().Text());
        return;
      }
      CHECK(report->events >= 200);
    }
  });
  for (int i = 0; i < 1500; ++i) {
    for (int j = 0; j < 3; ++j) Must(fixture.log().Add("s", DataEvent("x").view()));
    fixture.Commit();
  }
  done = true;
}

TEST_CASE("opening finds a last record that does not check") {
  LogFixture fixture;
  for (int i = 0; i < 3; ++i) fixture.Append("s", std::to_string(i));
  std::string bytes = GetRecord(fixture.database(), 2);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  PutRecord(fixture.database(), 2, bytes);
  CHECK(test::ClassOf(fixture.TryOpen()) == ErrorClass::kCorrupt);
}

TEST_CASE("opening a log of a newer format, or one without identity") {
  LogFixture fixture;
  fixture.Append("s", "x");
  std::string identity;
  REQUIRE(Must(fixture.database().Get(Family::kMeta, "log/identity", &identity)));
  {
    std::string newer = identity;
    newer[0] = 2;
    Batch batch(fixture.database());
    batch.Put(Family::kMeta, "log/identity", newer);
    Must(fixture.database().Write(batch, false));
    CHECK(test::ClassOf(fixture.TryOpen()) == ErrorClass::kUnsupported);
  }
  {
    Batch batch(fixture.database());
    batch.Delete(Family::kMeta, "log/identity");
    Must(fixture.database().Write(batch, false));
    CHECK(test::ClassOf(fixture.TryOpen()) == ErrorClass::kCorrupt);
  }
}

TEST_CASE("the tree's checkpoint and the log agree over many events") {
  // Past several checkpoints of 8,192 events, opened in between.
  LogFixture fixture(1000);
  MerkleFrontier naive;
  uint64_t count = 0;
  for (int round = 0; round < 6; ++round) {
    for (int commit = 0; commit < 10; ++commit) {
      for (int i = 0; i < 500; ++i, ++count) {
        Must(fixture.log().Add("s-" + std::to_string(count % 10), DataEvent("x").view()));
      }
      fixture.Commit();
    }
    const Hash root = fixture.log().Root();
    fixture.Reopen();
    CHECK(fixture.log().Root() == root);
    CHECK(fixture.log().size() == count);
  }
  const auto report = Must(fixture.log().Verify(nullptr, nullptr));
  CHECK(report.events == count);
  CHECK(report.root == fixture.log().Root());
  for (int stream = 0; stream < 10; ++stream) {
    CHECK(Must(fixture.log().PublishedVersion("s-" + std::to_string(stream))) == count / 10);
  }
}

}  // namespace
}  // namespace leat::eventstore
