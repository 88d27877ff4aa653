package postgres

// Migrations are what makes the tables, for tests of older ones.
var Migrations = migrations
