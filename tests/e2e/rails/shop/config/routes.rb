Rails.application.routes.draw do
  get "up" => "rails/health#show", as: :rails_health_check
  get "page" => "visits#page"
  get "visit" => "visits#create"
  root "visits#index"
end
