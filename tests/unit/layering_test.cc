// The arrows of the architecture, held by a scan of the includes: a folder includes only itself and what lies to its
// left, services inside producers/, consumers/ and sagas/ know no other service, and third-party headers stay in the
// adapters that need them.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "tests/support/source_dir.h"

namespace {

namespace fs = std::filesystem;

// Left to right; braces in the design are one rank.
const std::map<std::string, int> kRanks = {
    {"core", 0},      {"events", 1},    {"eventstore", 2}, {"bus", 3},     {"runtime", 4},
    {"producers", 5}, {"consumers", 5}, {"sagas", 5},      {"gateway", 6}, {"apps", 7}};

struct Include {
  std::string file;  // relative to the top
  int line;
  std::string header;
  bool quoted;
};

std::vector<Include> AllIncludes() {
  std::vector<Include> out;
  const fs::path top = leat::test::SourceDir();
  const std::regex pattern(R"re(^\s*#\s*include\s*([<"])([^>"]+)[>"])re");
  for (const auto& [folder, rank] : kRanks) {
    if (!fs::exists(top / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(top / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      std::ifstream in(entry.path());
      std::string text;
      for (int line = 1; std::getline(in, text); ++line) {
        std::smatch match;
        if (std::regex_search(text, match, pattern)) {
          out.push_back({fs::relative(entry.path(), top).string(), line, match[2],
                         match[1] == "\""});
        }
      }
    }
  }
  return out;
}

std::string Top(const std::string& path) { return path.substr(0, path.find('/')); }

// "producers/ledger" of "producers/ledger/ledger.h"; the top folder where there is nothing between.
std::string Service(const std::string& path) {
  const size_t first = path.find('/');
  const size_t second = path.find('/', first + 1);
  return second == std::string::npos ? path.substr(0, first) : path.substr(0, second);
}

}  // namespace

TEST_CASE("no include points against the arrows") {
  const auto includes = AllIncludes();
  REQUIRE(includes.size() > 100);
  for (const Include& include : includes) {
    const auto target = kRanks.find(Top(include.header));
    if (!include.quoted || target == kRanks.end() || include.header.ends_with(".pb.h")) continue;
    const int from = kRanks.at(Top(include.file));
    INFO(include.file, ":", include.line, " includes ", include.header);
    CHECK(target->second <= from);
    const bool services = from == kRanks.at("producers") && target->second == from;
    if (services) CHECK(Service(include.file) == Service(include.header));
  }
}

TEST_CASE("third-party headers stay with the adapter that needs them") {
  struct Rule {
    std::string prefix;
    std::vector<std::string> allowed;  // files or folders
  };
  const std::vector<Rule> rules = {
      {"rocksdb/", {"eventstore/database.cc"}},
      {"librdkafka/", {"bus/kafka/"}},
      {"amqp", {"bus/rabbitmq/"}},
      {"boost/beast", {"gateway/http_server.cc", "gateway/http_client.cc"}},
      {"boost/asio", {"gateway/http_server.cc", "gateway/http_client.cc"}},
      {"boost/multiprecision", {"core/amount.cc"}},
      {"spdlog/", {"core/log.cc"}},
      {"cryptopp/", {"core/hash.cc"}},
      {"simdjson", {"producers/ingest/"}},
      {"zlib.h", {"producers/ingest/"}},
      {"nlohmann/", {"events/codec.cc", "gateway/", "apps/"}},
      {"CLI/", {"apps/"}},
  };
  for (const Include& include : AllIncludes()) {
    for (const Rule& rule : rules) {
      if (!include.header.starts_with(rule.prefix)) continue;
      INFO(include.file, ":", include.line, " includes ", include.header);
      CHECK(std::any_of(rule.allowed.begin(), rule.allowed.end(),
                        [&](const std::string& place) { return include.file.starts_with(place); }));
      CHECK(include.file.ends_with(".cc"));
    }
  }
}
