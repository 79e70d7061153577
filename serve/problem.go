package serve

import (
	"slices"
	"sync"
	"time"

	"understudy/admin"
)

// problems are what did not open at the start.
type problems struct {
	mu   sync.Mutex // guards list
	list []admin.Problem
}

func (p *problems) add(code string, err error, mend string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, admin.Problem{Code: code, Text: err.Error(), Mend: mend})
}

func (p *problems) all() []admin.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

func (p *problems) has(code string) bool {
	return slices.ContainsFunc(p.all(), func(x admin.Problem) bool { return x.Code == code })
}

// backup are those without which the backup cannot play. One that runs elsewhere does not need this process's log.
func (p *problems) backup(elsewhere bool) []admin.Problem {
	return slices.DeleteFunc(p.all(), func(x admin.Problem) bool {
		return x.Code == "core_dumps" || elsewhere && x.Code == "audit_failed"
	})
}

// reloads remembers what became of the last SIGHUP.
type reloads struct {
	mu   sync.Mutex // guards what follows
	at   time.Time
	last error
}

func (r *reloads) failed(err error) { r.set(err) }
func (r *reloads) done()            { r.set(nil) }

func (r *reloads) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.last = time.Now(), err
}

func (r *reloads) problem() (admin.Problem, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return admin.Problem{}, false
	}
	return admin.Problem{
		Code: "reload_failed", Text: "the configuration of " + r.at.Format(time.RFC3339) + " was not taken: " + r.last.Error(),
		Mend: "mend the file and send SIGHUP again; until then the old configuration is in force",
	}, true
}
