class CreateVisits < ActiveRecord::Migration[7.2]
  def change
    create_table :visits do |t|
      t.string :seen_by, null: false
      t.timestamps
    end
  end
end
