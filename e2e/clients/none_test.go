package clients

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	msalerrors "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"
	"golang.org/x/oauth2"

	"understudy/idptest"
)

// What a client sees whose session the backup does not know.
const (
	notNow  = "not now" // 503 temporarily_unavailable with Retry-After
	waiting = "waits"   // as long as its client does
)

// unknown is what the design lets a client see whose session the backup does not know.
func unknown(class, fault string) string {
	switch {
	case fault == "429":
		return anAnswer
	case fault == "hang":
		return waiting
	case class == silent && fault == "HTML with 200":
		return aPage
	case class == silent:
		return "temporarily_unavailable"
	case fault == "408" || fault == "425":
		return fault
	}
	return notNow
}

// reaction is what a client does with a reply of the token endpoint that is no token.
type reaction struct {
	says string // to the application
	once int    // requests for one call
	more int    // requests for further calls
	back string // when it is back at a primary that serves again, with the session that it had
}

// says is what a library tells the application of an error.
func says(err error) string {
	var go2 *oauth2.RetrieveError
	var msal msalerrors.CallErr
	var node *idptest.NodeError
	switch {
	case errors.As(err, &go2) && go2.ErrorCode != "":
		return go2.ErrorCode
	case errors.As(err, &go2):
		return fmt.Sprint("status ", go2.Response.StatusCode)
	case errors.As(err, &msal):
		return fmt.Sprint("status ", msal.Resp.StatusCode)
	case errors.As(err, &node):
		return node.Code
	}
	return fmt.Sprint(err)
}

// strange asks for a silent authorization in a browser that the primary knows and the backup does not, and gives the library what comes.
func (l *lane) strange(ctx context.Context, r *rider) (string, error) {
	c, err := r.open(ctx, l.s, l.u)
	if err != nil {
		return "", err
	}
	to, err := c.begin(ctx, "none")
	if err != nil {
		return "", err
	}
	b := l.browser.Clone()
	b.Take("__Host-understudy", &idptest.Browser{})
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	resp, body, err := b.Get(short, to)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return waiting, nil
	case err != nil:
		return "", err
	case b.Cookie("KEYCLOAK_IDENTITY") != l.browser.Cookie("KEYCLOAK_IDENTITY"):
		return "", errors.New("the browser lost its session")
	}
	switch back, err := resp.Location(); {
	case err == nil && strings.HasPrefix(back.String(), redirect+"?"):
		if _, err := c.finish(ctx, back); err == nil || !strings.Contains(err.Error(), back.Query().Get("error")) {
			return "", fmt.Errorf("the library takes %s: %w", back, err)
		}
		return back.Query().Get("error"), nil
	case resp.StatusCode == http.StatusTooManyRequests:
		return anAnswer, nil
	case resp.StatusCode == http.StatusOK && strings.Contains(body, "It works."):
		return aPage, nil
	}
	return "", fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
}

// reply is what the gateway says at a class's path to whoever presents what nobody knows.
func (l *lane) reply(ctx context.Context, class string) (string, error) {
	method, path, body := http.MethodPost, "/protocol/openid-connect/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"spa"}}.Encode()
	if class == userInfo {
		method, path, body = http.MethodGet, "/protocol/openid-connect/userinfo", ""
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(short, method, issuer(l.u)+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if class == userInfo {
		req.Header.Set("Authorization", "Bearer x")
	} else {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("User-Agent", "the test's own")
	resp, err := l.u.Client().Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return waiting, nil
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var said [256]byte
	n, _ := resp.Body.Read(said[:])
	switch text := string(said[:n]); {
	case len(resp.Header["Set-Cookie"]) > 0:
		return "", fmt.Errorf("cookies: %v", resp.Header)
	case resp.StatusCode == 503 && strings.Contains(text, `"temporarily_unavailable"`) && resp.Header.Get("Retry-After") == "5":
		return notNow, nil
	case resp.StatusCode == 429 || resp.StatusCode == 408 || resp.StatusCode == 425:
		return fmt.Sprint(resp.StatusCode), nil
	default:
		return fmt.Sprintf("%d %s", resp.StatusCode, text), nil
	}
}

const (
	watched   = time.Second // for requests that a library sends by itself
	moreCalls = 5
	// blocked is how long a library may ask nothing before it counts as one that does not come back by itself.
	blocked = 9 * time.Second
)

// counted counts the requests of the libraries at a class.
func (l *lane) counted(c class) (idptest.Fault, map[string]*atomic.Int64) {
	counts := map[string]*atomic.Int64{}
	for _, r := range l.riders {
		counts[r.name] = &atomic.Int64{}
	}
	f := l.f.Fault
	f.Match = func(r *http.Request) bool {
		if !c.match(r) {
			return false
		}
		for _, x := range l.riders {
			if x.sends(r) {
				counts[x.name].Add(1)
			}
		}
		return true
	}
	return f, counts
}

// uninformed lets the libraries that ask UserInfo meet the lane's fault there, with tokens that the backup does not know.
func (l *lane) uninformed(ctx context.Context, b *book, c class) error {
	f, counts := l.counted(c)
	if err := l.proxy.Set(f); err != nil {
		return err
	}
	saw, err := l.reply(ctx, userInfo)
	if err != nil {
		return err
	}
	for _, r := range l.riders {
		if !r.userInfo {
			continue
		}
		if err := l.proxy.Set(f); err != nil {
			return err
		}
		var failed error
		end := time.AfterFunc(3*time.Second, func() { l.proxy.Set(idptest.Fault{}) }) // a hang, which nothing else ends
		email, err := r.c.(informed).userInfo(ctx)
		if end.Stop() == (l.f.Kind == idptest.BlackHole) || err == nil || counts[r.name].Load() != 1 {
			failed = fmt.Errorf("%d requests, %q, %w", counts[r.name].Load(), email, err)
		}
		if err := l.proxy.Set(idptest.Fault{}); err != nil {
			return err
		}
		if email, err := r.c.(informed).userInfo(ctx); err != nil || email != "alice@example.test" {
			failed = errors.Join(failed, fmt.Errorf("after the fault: %q %w", email, err))
		}
		b.noteNone(cell{r.name, c.name, l.f.name}, saw, failed)
	}
	return nil
}

// react lets each library meet a reply at the token endpoint, asks on, and waits until it is back at the primary.
func (l *lane) react(ctx context.Context, b *book, c class) error {
	f, counts := l.counted(c)
	if err := l.proxy.Set(f); err != nil {
		return err
	}
	saw, err := l.reply(ctx, token)
	if err != nil {
		return err
	}
	hangs := l.f.Kind == idptest.BlackHole
	served := make(chan struct{}) // closed when the primary serves again
	var asked, done sync.WaitGroup
	for _, r := range l.riders {
		asked.Add(1)
		done.Go(func() {
			x, failed := reaction{}, error(nil)
			call := func() {
				_, err := r.c.refresh(ctx)
				if err == nil {
					failed = errors.New("a token came of it")
				}
				if x.says == "" {
					x.says = says(err)
				}
			}
			first := make(chan time.Time, 1)
			go func() {
				call()
				first <- time.Now()
			}()
			var at time.Time
			if !hangs {
				at = <-first
			}
			time.Sleep(watched)
			x.once = int(counts[r.name].Load())
			for range moreCalls {
				if !hangs {
					call()
					time.Sleep(50 * time.Millisecond)
				}
			}
			x.more = int(counts[r.name].Load()) - x.once
			asked.Done()
			<-served
			if hangs {
				at = <-first
			}
			x.back = r.returns(ctx, at, hangs || x.more > 0)
			b.noteNone(cell{r.name, c.name, l.f.name}, saw, failed)
			b.react(cell{r.name, c.name, l.f.name}, x)
		})
	}
	asked.Wait()
	if err := l.proxy.Set(idptest.Fault{}); err != nil {
		return err
	}
	close(served)
	done.Wait()
	return nil
}

// returns says when a library is back at the primary with the session that it had; at is when it was told to wait. One that went on
// asking is expected to be back at once.
func (r *rider) returns(ctx context.Context, at time.Time, asking bool) string {
	said := ""
	for first := true; time.Since(at) < blocked; first = false {
		asks := time.Since(at)
		saw, err := signer(r.c.refresh(ctx))
		switch {
		case err == nil && saw == "primary" && asking && first:
			return "at once"
		case err == nil && saw == "primary":
			return fmt.Sprintf("after %d s", int(asks.Seconds()+0.2))
		case err == nil:
			said = "by the " + saw
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Sprintf("not within %.0f s%s", blocked.Seconds(), said)
}
