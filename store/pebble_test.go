package store_test

import (
	"testing"
	"time"

	"understudy/store"
	"understudy/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, dir string, now func() time.Time) (store.KV, func() error) {
		db, err := store.Open(dir, store.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return db, db.Close
	})
}
