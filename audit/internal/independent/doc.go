// Package independent has no code of its own. Its tests let other people's code
// verify what package audit writes: golang.org/x/mod's transparency-log client and
// the verifiers of github.com/transparency-dev. Its benchmark races a log against
// SQLite and against a file that is synced for each event. It is a module of its
// own, so that none of these become dependencies.
package independent
