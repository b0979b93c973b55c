# frozen_string_literal: true

# Counts requests, 5xx and how long they take, so that pitstop can compare two releases side by side. To be put in
# front of all other middleware. Does nothing where `pitstop exec` did not start the server.
class PitstopCounts
  BUCKETS = 20 # the times, by powers of two, in milliseconds
  LINE = "#{Array.new(BUCKETS + 4, "%015d").join(" ")}\n"
  PROBES = ["pitstop", "kube-probe/"].freeze

  def initialize(app, dir = ENV["PITSTOP_COUNTS"])
    @app, @dir, @lock = app, dir, Mutex.new
    take_file if dir # none was counted: that is known too
  rescue SystemCallError, IOError
    nil # the app goes on, uncounted
  end

  def call(env)
    return @app.call(env) if @dir.nil? || env["HTTP_USER_AGENT"].to_s.start_with?(*PROBES)
    began = Process.clock_gettime(Process::CLOCK_MONOTONIC, :millisecond)
    response = @app.call(env)
    failed = response[0].to_i >= 500
    response
  rescue Exception
    failed = true
    raise
  ensure
    count(failed, Process.clock_gettime(Process::CLOCK_MONOTONIC, :millisecond) - began) if began
  end

  private

  def count(failed, ms)
    @lock.synchronize do
      take_file unless @pid == Process.pid
      @counts[0] += 1
      @counts[1] += 1 if failed
      @counts[2] += ms
      @counts[3 + [ms.bit_length, BUCKETS - 1].min] += 1
      @file.pwrite(format(LINE, *@counts, @counts.sum), 0)
    end
  rescue SystemCallError, IOError
    nil
  end

  # The first that no process holds: what an earlier one has counted goes on.
  def take_file
    @file&.close # that of the process that forked this one
    @file = (0...1000).lazy.filter_map do |n|
      file = File.open(File.join(@dir, n.to_s), File::RDWR | File::CREAT, 0o600)
      file.flock(File::LOCK_EX | File::LOCK_NB) ? file : file.close
    end.first
    @counts = @file.read.split.map(&:to_i).first(BUCKETS + 3)
    @counts = [0] * (BUCKETS + 3) if @counts.size < BUCKETS + 3
    @pid = Process.pid
  end
end
