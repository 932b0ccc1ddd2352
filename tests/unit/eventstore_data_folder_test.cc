#include "eventstore/data_folder.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "tests/support/test_support.h"

namespace leat::eventstore {
namespace {

using test::Must;
using test::TempFolder;

void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

TEST_CASE("one holder at a time") {
  const TempFolder temp;
  const std::string path = temp.Sub("a/b/data");
  {
    const auto folder = Must(DataFolder::Lock(path));
    CHECK(folder->path() == path);
    const auto second = DataFolder::Lock(path);
    CHECK(test::ClassOf(second) == ErrorClass::kConflict);
    CHECK(second.error().Text().find(path) != std::string::npos);
    CHECK_FALSE(second.error().remedy.empty());
    // A refused attempt does not take the lock from its holder.
    CHECK(test::ClassOf(DataFolder::Lock(path)) == ErrorClass::kConflict);
  }
  CHECK(DataFolder::Lock(path).has_value());
}

TEST_CASE("a child process does not inherit the lock") {
  const TempFolder temp;
  auto folder = Must(DataFolder::Lock(temp.path()));
  // Closed on exec: the child keeps nothing, so the lock goes with its holder.
  CHECK(std::system(("sh -c 'ls -l /proc/$$/fd' > " + temp.Sub("fds")).c_str()) == 0);
  std::ifstream in(temp.Sub("fds"));
  std::ostringstream fds;
  fds << in.rdbuf();
  CHECK(fds.str().find("/lock") == std::string::npos);
}

TEST_CASE("a newer format is refused, and nothing is written") {
  const TempFolder temp;
  Must(DataFolder::Lock(temp.path()));
  for (const char* text : {"{\"format\":2}\n", "{\"format\":999}\n"}) {
    Write(temp.Sub("format"), text);
    const auto folder = DataFolder::Lock(temp.path());
    CHECK(test::ClassOf(folder) == ErrorClass::kUnsupported);
    CHECK(folder.error().message.find("reads format 1") != std::string::npos);
  }
  for (const char* text : {"", "{}", "{\"format\":\"x\"}", "{\"format\":-1}", "format 1"}) {
    CAPTURE(text);
    Write(temp.Sub("format"), text);
    CHECK(test::ClassOf(DataFolder::Lock(temp.path())) == ErrorClass::kCorrupt);
  }
  Write(temp.Sub("format"), "{\"format\":1}\n");
  CHECK(DataFolder::Lock(temp.path()).has_value());
}

TEST_CASE("a folder has a name of its own for whoever works on it") {
  const TempFolder temp;
  const TempFolder other;
  const std::string name = Must(Must(DataFolder::Lock(temp.path()))->Instance());
  CHECK(name.size() == 13);
  CHECK(Must(Must(DataFolder::Lock(temp.path()))->Instance()) == name);
  CHECK(Must(Must(DataFolder::Lock(other.path()))->Instance()) != name);
  Write(temp.Sub("instance"), "given\n");
  CHECK(Must(Must(DataFolder::Lock(temp.path()))->Instance()) == "given");
  Write(temp.Sub("instance"), "");
  CHECK(test::ClassOf(Must(DataFolder::Lock(temp.path()))->Instance()) == ErrorClass::kCorrupt);
}

TEST_CASE("a path that cannot be a folder") {
  const TempFolder temp;
  Write(temp.Sub("file"), "x");
  CHECK(test::ClassOf(DataFolder::Lock(temp.Sub("file"))) == ErrorClass::kInvalid);
  CHECK(test::ClassOf(DataFolder::Lock(temp.Sub("file/below"))) == ErrorClass::kInvalid);
}

TEST_CASE("the server's address is found while it runs, and only then") {
  const TempFolder temp;
  CHECK_FALSE(Must(FindServer(temp.Sub("not-there"))).has_value());
  {
    auto folder = Must(DataFolder::Lock(temp.path()));
    CHECK(test::ClassOf(FindServer(temp.path())) == ErrorClass::kConflict);
    Must(folder->WriteServerAddress({"127.0.0.1", 8080, 4711, "secret"}));
    const auto found = Must(FindServer(temp.path()));
    REQUIRE(found.has_value());
    CHECK(found->host == "127.0.0.1");
    CHECK(found->port == 8080);
    CHECK(found->process_id == 4711);
    CHECK(found->token == "secret");
    struct stat info;
    REQUIRE(stat(temp.Sub("server.json").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
  }
  CHECK_FALSE(std::filesystem::exists(temp.Sub("server.json")));
  CHECK_FALSE(Must(FindServer(temp.path())).has_value());
}

TEST_CASE("the address that a killed server left is nobody's") {
  const TempFolder temp;
  Must(DataFolder::Lock(temp.path()));
  const std::string stale = R"({"host":"127.0.0.1","port":1,"pid":1,"token":"t"})";
  Write(temp.Sub("server.json"), stale);
  CHECK_FALSE(Must(FindServer(temp.path())).has_value());
  // A command that is no server holds the folder: its user must not be sent to the old address.
  const auto folder = Must(DataFolder::Lock(temp.path()));
  const auto found = FindServer(temp.path());
  CHECK(test::ClassOf(found) == ErrorClass::kConflict);
  CHECK(found.error().message.find("not a server") != std::string::npos);
}

TEST_CASE("looking for a server never keeps another from the folder") {
  const TempFolder temp;
  Must(DataFolder::Lock(temp.path()));
  std::jthread looker([&](std::stop_token stop) {
    while (!stop.stop_requested()) (void)FindServer(temp.path());
  });
  for (int i = 0; i < 300; ++i) {
    REQUIRE(DataFolder::Lock(temp.path()).has_value());
  }
}

}  // namespace
}  // namespace leat::eventstore
