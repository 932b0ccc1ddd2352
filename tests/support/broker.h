// A broker of this test, started and stopped by the project's own scripts.
#pragma once

#include <signal.h>
#include <stdlib.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/support/source_dir.h"
#include "tests/support/test_support.h"

namespace leat::test {

class Broker {
 public:
  // `script` is "kafka" or "rabbitmq"; the port must be nobody else's. Lines of `properties` are added to its
  // configuration; `environment` are settings of the script, NAME='VALUE'.
  Broker(std::string script, int port, const std::string& properties = {}, std::string environment = {})
      : script_(std::move(script)), port_(port), environment_(std::move(environment)) {
    Configure(properties);
    Run("start");
  }
  ~Broker() { (void)Try("wipe"); }
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  int port() const { return port_; }
  std::string folder() const { return folder_.Sub(script_); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // From the next start on.
  void Configure(const std::string& properties) {
    std::ofstream(folder_.Sub("properties"), std::ios::trunc) << properties;
  }
  // start, stop, kill.
  void Run(const std::string& verb) {
    if (Try(verb) != 0) FAIL("deploy/", script_, " ", verb, " failed");
  }
  // Freezes it, and lets it go on: SIGSTOP, SIGCONT.
  void Signal(int signal) {
    pid_t pid = 0;
    std::ifstream(folder() + "/" + script_ + ".pid") >> pid;
    REQUIRE(pid > 1);
    REQUIRE(kill(pid, signal) == 0);
  }

 private:
  int Try(const std::string& verb) const {
    const std::string command = environment_ + " " + SourceDir() + "/deploy/" + script_ + " " + verb +
                                " --port " + std::to_string(port_) + " --dir " +
                                folder() + " --properties " + folder_.Sub("properties");
    return std::system(command.c_str());
  }

  TempFolder folder_;
  const std::string script_;
  const int port_;
  const std::string environment_;
};

}  // namespace leat::test
