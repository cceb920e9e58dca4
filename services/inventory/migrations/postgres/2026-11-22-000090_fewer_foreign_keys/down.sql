ALTER TABLE ledger ADD FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id);
ALTER TABLE reservation_lines ADD FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id);
ALTER TABLE reservation_lines ADD FOREIGN KEY (reservation_id) REFERENCES reservations (id);
