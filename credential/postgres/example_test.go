package postgres_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/postgres"
)

// Each host runs this; who is revoked on one is refused on all.
func Example() {
	ctx := context.Background()
	var record audit.Recorder // the host's audit log

	pool, err := pgxpool.New(ctx, "postgres://twinward@db.example.com/twinward")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := postgres.Open(ctx, pool)
	if err != nil {
		log.Fatal(err)
	}
	agents, err := agentid.NewRegistry(record, &agentid.Options{Issuer: "https://agents.example.com", Store: store})
	if err != nil {
		log.Fatal(err)
	}
	go agents.Follow(ctx)

	// … serve until something is wrong.
	if err := agents.Revoke(ctx, "standup", audit.Change{By: "alice@example.com", Reason: "INC-7"}); err != nil {
		log.Print(err) // what did not work: the record, or telling the other hosts
	}
}
