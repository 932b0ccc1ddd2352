#include <doctest/doctest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "producers/ingest/external_sorter.h"
#include "producers/ingest/scratch_file.h"

namespace leat::ingest {
namespace {

using Records = std::vector<std::pair<uint64_t, std::string>>;

class ScratchFolder {
 public:
  ScratchFolder() {
    char name[] = "/tmp/leat-sorter-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  size_t FileCount() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

Records RandomRecords(uint64_t seed, size_t count, uint64_t keys) {
  std::mt19937_64 random(seed);
  Records records;
  for (size_t i = 0; i < count; ++i) {
    const size_t size = random() % 100 == 0 ? random() % 20'000 : random() % 64;
    std::string bytes(size, static_cast<char>('a' + i % 26));
    bytes += std::to_string(i);
    records.emplace_back(random() % keys, std::move(bytes));
  }
  return records;
}

Records ReadAll(const ExternalSorter& sorter) {
  Records out;
  const auto cursor = sorter.Read();
  uint64_t key;
  std::string_view record;
  for (;;) {
    const auto more = cursor->Next(&key, &record);
    REQUIRE(more);
    if (!*more) return out;
    out.emplace_back(key, record);
  }
}

TEST_CASE("ingest sorter: like std::stable_sort, in memory, in one merge and in rounds") {
  struct Case {
    uint64_t memory_bytes;
    size_t merge_runs_max;
    bool spills;
  };
  for (const Case& c : {Case{64 << 20, kMergeRunsMax, false}, Case{1 << 20, kMergeRunsMax, true},
                        Case{20'000, 8, true}, Case{5'000, 2, true}, Case{0, 3, true}}) {
    for (const uint64_t seed : {1, 2, 3}) {
      CAPTURE(c.memory_bytes);
      CAPTURE(seed);
      const ScratchFolder folder;
      Records expected = RandomRecords(seed, 20'000, seed == 3 ? 7 : 100'000);
      if (c.memory_bytes == 0) expected.resize(500);
      {
        ExternalSorter sorter({c.memory_bytes, folder.path(), c.merge_runs_max});
        for (const auto& [key, record] : expected) REQUIRE(sorter.Add(key, record));
        REQUIRE(sorter.Finish());
        std::stable_sort(expected.begin(), expected.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        CHECK((ReadAll(sorter) == expected));
        CHECK((ReadAll(sorter) == expected));  // as often as wanted
        CHECK(sorter.count() == expected.size());
        CHECK((sorter.spilled_bytes() > 0) == c.spills);
        CHECK(folder.FileCount() <= c.merge_runs_max);
      }
      CHECK(folder.FileCount() == 0);
    }
  }
}

TEST_CASE("ingest sorter: nothing in, nothing out") {
  ExternalSorter sorter({1 << 20, "/nowhere", kMergeRunsMax});
  REQUIRE(sorter.Finish());
  CHECK(ReadAll(sorter).empty());
}

TEST_CASE("ingest sorter: the largest record") {
  ExternalSorter sorter({64 << 20, "/nowhere", kMergeRunsMax});
  const std::string large(kRecordBytesMax, 'x');
  for (uint64_t key = 10; key-- > 0;) REQUIRE(sorter.Add(key, large));
  REQUIRE(sorter.Finish());
  const Records records = ReadAll(sorter);
  REQUIRE(records.size() == 10);
  CHECK((records[3] == std::pair<uint64_t, std::string>(3, large)));
}

TEST_CASE("ingest sorter: a scratch folder that is not there, and a full disk") {
  const std::string record(1000, 'x');
  const auto add_many = [&](const std::string& folder) -> Status {
    ExternalSorter sorter({1 << 20, folder, kMergeRunsMax});
    for (uint64_t key = 0; key < 10'000; ++key) LEAT_TRY(sorter.Add(key, record));
    return sorter.Finish();
  };
  const auto missing = add_many("/nowhere/at/all");
  REQUIRE(!missing);
  CHECK(missing.error().error_class == ErrorClass::kInvalid);
  CHECK(missing.error().message.starts_with("/nowhere/at/all/leat-ingest-run-0.tmp: "));

  // A limit on file sizes looks like a full disk to write().
  const ScratchFolder folder;
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100'000;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto full = add_many(folder.path());
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  signal(SIGXFSZ, old_handler);
  REQUIRE(!full);
  CHECK(full.error().error_class == ErrorClass::kExhausted);
  CHECK(full.error().message.find("the disk is full after 100000 bytes") != std::string::npos);
  CHECK(full.error().remedy.find("free space") != std::string::npos);
  CHECK(folder.FileCount() == 0);
}

TEST_CASE("ingest scratch: a start removes what a killed run left, and nothing else") {
  const ScratchFolder parent;
  const std::string folder = parent.path() + "/a/b";
  REQUIRE(PrepareScratchFolder(folder));
  std::ofstream(folder + "/leat-ingest-run-3.tmp") << "left";
  std::ofstream(folder + "/notes.txt") << "mine";
  REQUIRE(PrepareScratchFolder(folder));
  CHECK(!std::filesystem::exists(folder + "/leat-ingest-run-3.tmp"));
  CHECK(std::filesystem::exists(folder + "/notes.txt"));
  std::ofstream(parent.path() + "/file") << "x";
  const auto bad = PrepareScratchFolder(parent.path() + "/file/b");
  REQUIRE(!bad);
  CHECK(bad.error().message.find("the scratch folder cannot be made") != std::string::npos);
}

TEST_CASE("ingest scratch: reads at any offset, from disk and from memory") {
  const ScratchFolder folder;
  ScratchFile file(folder.path(), "x", 100);
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    const std::string part = std::to_string(i * 7919) + ",";
    all += part;
    REQUIRE(file.Append(part));
  }
  CHECK(file.size() == all.size());
  CHECK(file.written() < all.size());
  std::mt19937_64 random(5);
  for (int i = 0; i < 1000; ++i) {
    const size_t offset = random() % all.size();
    std::string part(random() % (all.size() - offset), '\0');
    REQUIRE(file.ReadAt(offset, part.data(), part.size()));
    REQUIRE((part == all.substr(offset, part.size())));
  }
}

}  // namespace
}  // namespace leat::ingest
