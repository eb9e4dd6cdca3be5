"""What people see: records to screens, pictures and files. Every view is made from the same record."""
