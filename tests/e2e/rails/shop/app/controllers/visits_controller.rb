# Each visit is a row in the database; the page needs its stylesheet. `Code` differs between the releases.
class VisitsController < ApplicationController
  def index
    render json: { code: Code::RELEASE, pid: Process.pid, xmlrpc: defined?(XMLRPC).present? }
  end

  # SQLite refuses a write at once when a migration commits in the middle of it; a database server would wait.
  def create
    Visit.create!(seen_by: Code::RELEASE)
    index
  rescue ActiveRecord::StatementInvalid => error
    tries = tries.to_i + 1
    raise unless error.cause.is_a?(SQLite3::BusyException) && tries < 100
    sleep 0.05
    retry
  end

  def page
    render html: %(<link rel="stylesheet" href="/assets/shop-#{Code::RELEASE}.css">).html_safe
  end
end
