// Reads through one channel of Ramulator 2.1; benchmarks/ramulator_reference.py builds and runs it.
//
//     ramulator_driver CONFIG LEVELS < streams > cycles
//
// CONFIG is an exported configuration with pass-through mappers. Each stream is "ID PROTOCOL LIMIT
// READS", then for each read the LEVELS numbers of its address vector. Protocols and what they count
// are those of accelsim.hardware.memories.read_stream; at most LIMIT reads are accepted and not yet
// handed back. Answers "ID CYCLES" for each stream.

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ramulator/base/config.h"
#include "ramulator/base/factory.h"
#include "ramulator/base/request.h"
#include "ramulator/frontend/i_frontend.h"
#include "ramulator/memory_system/i_memory_system.h"

using namespace Ramulator;

namespace {

struct Channel {
  std::unique_ptr<IFrontEnd> frontend;
  std::unique_ptr<IMemorySystem> memory;
  long in_flight = 0;  // accepted and not handed back
  long finished = 0;   // of those, the ones whose data are there

  explicit Channel(const ConfigNode& config)
      : frontend(Factory::create_frontend(config)), memory(Factory::create_memory_system(config)) {
    frontend->connect_memory_system(memory.get());
    memory->connect_frontend(frontend.get());
  }

  bool push(const std::vector<int>& place, long number, long limit) {
    if (in_flight == limit) return false;
    Request request(AddrVec_t(place.begin(), place.end()), Request::Type::Read);
    request.addr = 64 * number;
    request.size_bytes = memory->get_tx_bytes();
    request.source_id = 0;
    request.callback = [this](Request&) { finished++; };
    if (!memory->send(request)) return false;
    in_flight++;
    return true;
  }

  bool pop() {
    if (finished == 0) return false;
    finished--;
    in_flight--;
    return true;
  }
};

// One request a cycle; a refused one is parked, and the cycle that accepts it takes no new one.
long bridge(Channel& channel, const std::vector<std::vector<int>>& reads, long limit) {
  const long count = static_cast<long>(reads.size());
  long offered = 0, received = 0, parked = -1;
  for (long edge = 0;; edge++) {
    if (parked >= 0) {
      if (channel.push(reads[parked], parked, limit)) parked = -1;
    } else if (offered < count) {
      if (!channel.push(reads[offered], offered, limit)) parked = offered;
      offered++;
    }
    if (channel.pop() && ++received == count) return edge + 2;
    channel.memory->tick();
  }
}

// One request offered a tick until it is accepted.
long controller(Channel& channel, const std::vector<std::vector<int>>& reads, long limit) {
  const long count = static_cast<long>(reads.size());
  long offered = 0, received = 0;
  for (long tick = 0;; tick++) {
    if (offered < count && channel.push(reads[offered], offered, limit)) offered++;
    channel.memory->tick();
    if (channel.pop() && ++received == count) return tick + 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const ConfigNode config = Config::parse_config_file(argv[1]);
  const int levels = std::stoi(argv[2]);
  std::string id, protocol;
  long limit, count;
  while (std::cin >> id >> protocol >> limit >> count) {
    std::vector<std::vector<int>> reads(count, std::vector<int>(levels));
    for (auto& read : reads)
      for (auto& level : read) std::cin >> level;
    Channel channel(config);
    auto run = protocol == "bridge" ? bridge : controller;
    std::cout << id << ' ' << run(channel, reads, limit) << '\n';
  }
}
