use std::{fs, io, path::Path};

/// What a release of the rig's app does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Serves.
    Good,
    /// Serves, but takes two seconds to boot.
    SlowBoot,
    /// Raises while it boots.
    RaisesOnBoot,
    /// Raises while it boots, until there is a file `database` where the sockets are.
    NeedsDatabase,
    /// Never ends to boot.
    HangsOnBoot,
    /// Its health path answers 500, everything else is well.
    UnhealthyPath,
    /// Answers 500 to everything.
    FailsEverywhere,
    /// Answers 500 to one request in twenty; its health path is well.
    FailsNowAndThen,
    /// Its health path answers 500 once it has had another request.
    SickWithClients,
    /// Puma's configuration raises.
    BadConfig,
    /// The app loads, but each worker hangs as it starts (also with preload_app).
    HangsInWorker,
    /// Serves, but says in its header that it is another release.
    Misnamed,
    /// Serves. Told to stop or to restart, its server ends its requests and then waits for ever, as one on Ruby 3.3
    /// does now and then that is very young.
    NeverStops,
    /// Serves, and keeps a file of its directory open.
    KeepsFileOpen,
}

impl App {
    /// Writes the release `id` into `dir`, with `puma_config` as its Puma configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(self, dir: &Path, id: &str, puma_config: &str) -> io::Result<()> {
        fs::create_dir_all(dir.join("config"))?;
        fs::write(dir.join("REVISION"), id)?;
        fs::write(dir.join("config.ru"), self.rackup(id))?;
        fs::write(dir.join("config/puma.rb"), format!("{puma_config}{}", self.config_tail()))
    }

    pub(crate) fn config_tail(self) -> &'static str {
        match self {
            Self::BadConfig => "raise 'this configuration is broken on purpose'\n",
            // Renamed in 7.0.
            Self::HangsInWorker => {
                "send(respond_to?(:before_worker_boot) ? :before_worker_boot : :on_worker_boot) { sleep }\n"
            }
            _ => "",
        }
    }

    fn rackup(self, id: &str) -> String {
        let named = if self == Self::Misnamed { "another" } else { id };
        let health = if self == Self::UnhealthyPath { 500 } else { 200 };
        let boot = match self {
            Self::RaisesOnBoot => "raise 'this release is broken on purpose'",
            Self::NeedsDatabase => "File.read(File.join(ENV.fetch('RIG_RUN'), 'database'))",
            Self::HangsOnBoot => "sleep",
            Self::SlowBoot => "sleep 2",
            Self::NeverStops => "Puma::ThreadPool.prepend(Module.new { def shutdown(*) = [super, sleep] })",
            Self::KeepsFileOpen => {
                "KEPT = File.open(File.join(File.dirname(File.expand_path(__FILE__)), 'REVISION'))"
            }
            _ => "",
        };
        let status = if self == Self::FailsEverywhere { 500 } else { 200 };
        let fails = if self == Self::FailsNowAndThen { 0.05 } else { 0.0 };
        let sick = self == Self::SickWithClients;
        format!(
            "require 'json'\n\
             {boot}\n\
             sleep ENV.fetch('RIG_BOOT_SECONDS', '0').to_f\n\
             BURNS = '{named}' == 'v1' ? 0 : ENV.fetch('RIG_BOOT_BURNS', '0').to_f\n\
             BURNT = Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID) + BURNS\n\
             1 until Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID) >= BURNT\n\
             HEALTH = {health}\nSTATUS = {status}\nFAILS = {fails}\nSICK = {sick}\nRELEASE = '{named}'\n{APP}"
        )
    }
}

/// While it boots it sleeps for `RIG_BOOT_SECONDS`, and as any release but `v1` it uses `RIG_BOOT_BURNS` seconds of a core.
///
/// `/up` health (503 while there is a file `outage` where the sockets are: what it depends on is away), `/slow?s=N` (`after=FILE`: once there is such a file where the sockets are), `/stream?n=N` (one chunk per 100 ms), `/socket?s=N` (hijacked), `POST /upload`,
/// anything else.
const APP: &str = r#"
Stream = Struct.new(:chunks) do
  def each
    chunks.times { |i| yield "chunk #{i}\n"; sleep 0.1 }
  end
end

def number(env, name, fallback)
  env['QUERY_STRING'].to_s[/(?:\A|&)#{name}=([0-9.]+)/, 1]&.to_f || fallback
end

# What a websocket is to Puma: a socket that it has given away. No thread of its pool is busy with it.
def hijacked(env, seconds)
  io = env['rack.hijack'].call
  Thread.new do
    io.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    (seconds * 4).to_i.times { io.write("ping\n"); sleep 0.25 }
  ensure
    io.close
  end
end

# What the release has for a middleware.
COUNTS = File.join(File.dirname(File.expand_path(__FILE__)), 'pitstop_counts.rb')
if File.exist?(COUNTS)
  require COUNTS
  use PitstopCounts
end

run lambda { |env|
  status = rand < FAILS ? 500 : STATUS
  $met ||= SICK && env['PATH_INFO'] != '/up'
  facts = { release: RELEASE, pid: Process.pid, path: env['PATH_INFO'], gemfile: ENV['BUNDLE_GEMFILE'] }
  headers = { 'X-Release' => RELEASE, 'Content-Type' => 'application/json' }
  case env['PATH_INFO']
  when '/up'
    away = File.exist?(File.join(ENV['RIG_RUN'].to_s, 'outage'))
    status = away ? 503 : [HEALTH, STATUS, $met ? 500 : 200].max
  when '/slow'
    awaited = env['QUERY_STRING'].to_s[/(?:\A|&)after=([a-z]+)/, 1]
    sleep 0.02 until awaited.nil? || File.exist?(File.join(ENV.fetch('RIG_RUN'), awaited))
    sleep number(env, 's', 1.0)
  when '/stream'
    next [status, headers.merge('Content-Type' => 'text/plain'), Stream.new(number(env, 'n', 10.0).to_i)]
  when '/socket'
    hijacked(env, number(env, 's', 5.0))
    next [200, {}, []]
  when '/upload'
    facts[:bytes] = env['rack.input'].read.bytesize
  end
  [status, headers, [JSON.generate(facts) + "\n"]]
}
"#;
