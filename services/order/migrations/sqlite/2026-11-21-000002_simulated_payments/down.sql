DROP TABLE simulated_refunds;
DROP TABLE simulated_payments;
