package idptest

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The Keycloak that is installed: an artifact of Maven Central, by version and checksum.
const (
	keycloakVersion = "26.7.3"
	keycloakSum     = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
)

// Keycloak is a running Keycloak with the realms "rot" (refresh tokens rotate) and "norot" (they don't).
type Keycloak struct {
	Port int

	dir  string   // the instance: links to the installation, and its own data
	more []string // options of the start command
	mgmt int
	log  string
	p    *Process
}

func keycloakDir() string { return filepath.Join(Parts(), "keycloak") }

// fastJVM are the flags for a fast start: no second compiler, one heap, one collector.
var fastJVM = []string{"-Xms256m", "-Xmx512m", "-XX:MetaspaceSize=96M", "-XX:MaxMetaspaceSize=256m",
	"-XX:+ExitOnOutOfMemoryError", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}

// loadJVM are Keycloak's own defaults, for measurements.
var loadJVM = []string{"-Xms64m", "-Xmx512m", "-XX:MetaspaceSize=96M", "-XX:MaxMetaspaceSize=256m", "-XX:+UseG1GC"}

// InstallKeycloak downloads Keycloak, builds it, imports the realms and makes a class archive for fast starts. It does
// nothing where all that is there.
func InstallKeycloak(ctx context.Context) error { return exclusive(ctx, "keycloak", installKeycloak) }

func installKeycloak(ctx context.Context) error {
	dir := keycloakDir()
	want, err := keycloakRecipe()
	if err != nil {
		return err
	}
	if have, _ := os.ReadFile(filepath.Join(dir, "complete")); string(have) == want {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, old := range []string{"home", "template", "kc.jsa", "complete", "keycloak-" + keycloakVersion} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return err
		}
	}
	archive := filepath.Join(dir, "keycloak-quarkus-dist-"+keycloakVersion+".zip")
	if sum(archive) != keycloakSum {
		if err := run(ctx, dir, nil, "mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
			"-Dartifact=org.keycloak:keycloak-quarkus-dist:"+keycloakVersion+":zip", "-DoutputDirectory="+dir); err != nil {
			return fmt.Errorf("download Keycloak: %w", err)
		}
		if s := sum(archive); s != keycloakSum {
			return fmt.Errorf("%s has the checksum %s, not %s", archive, s, keycloakSum)
		}
	}
	if err := unzip(archive, dir); err != nil {
		return fmt.Errorf("unpack Keycloak: %w", err)
	}
	home := filepath.Join(dir, "home")
	if err := os.Rename(filepath.Join(dir, "keycloak-"+keycloakVersion), home); err != nil {
		return err
	}
	if err := run(ctx, dir, nil, filepath.Join(home, "bin", "kc.sh"), "build", "--db=dev-file", "--health-enabled=true", "--metrics-enabled=true",
		"--spi-x509cert-lookup--provider=rfc9440"); err != nil {
		return fmt.Errorf("build Keycloak: %w", err)
	}
	cert, err := clientCertificate(filepath.Join(dir, "jwtc.key"))
	if err != nil {
		return err
	}
	realms, err := filepath.Glob(filepath.Join(Root(), "idptest", "realms", "*-realm.json"))
	if err != nil {
		return err
	}
	imports := filepath.Join(dir, "template", "import")
	if err := os.MkdirAll(imports, 0o755); err != nil {
		return err
	}
	for _, r := range realms {
		if err := copyFile(r, filepath.Join(imports, filepath.Base(r))); err != nil {
			return err
		}
	}
	// The first start makes the database, the second the class archive.
	for _, extra := range [][]string{{"--import-realm"}, nil} {
		k, err := newKeycloak(filepath.Join(dir, "instance"), filepath.Join(dir, "install.log"))
		if err != nil {
			return err
		}
		jvm := fastJVM
		if extra == nil {
			jvm = append(jvm, "-XX:ArchiveClassesAtExit="+filepath.Join(dir, "kc.jsa"))
		}
		env := append(os.Environ(), "JWTC_CERT="+cert, "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin")
		if err := k.start(ctx, jvm, env, extra...); err != nil {
			return fmt.Errorf("prepare Keycloak: %w", err)
		}
		time.Sleep(time.Second)   // its database writes behind
		k.p.Stop(2 * time.Minute) // writing the class archive takes long
		if extra != nil {
			os.RemoveAll(filepath.Join(dir, "template"))
			if err := os.Rename(filepath.Join(dir, "instance", "data"), filepath.Join(dir, "template")); err != nil {
				return err
			}
			os.RemoveAll(filepath.Join(dir, "template", "import"))
		}
		os.RemoveAll(filepath.Join(dir, "instance"))
	}
	os.Remove(archive)
	return os.WriteFile(filepath.Join(dir, "complete"), []byte(want), 0o644)
}

// keycloakRecipe changes when what is installed would be another: version, realms, or this program.
func keycloakRecipe() (string, error) {
	h := sha256.New()
	io.WriteString(h, "4 "+keycloakSum)
	realms, err := filepath.Glob(filepath.Join(Root(), "idptest", "realms", "*-realm.json"))
	if err != nil || len(realms) == 0 {
		return "", fmt.Errorf("no realm files: %w", err)
	}
	for _, r := range realms {
		b, err := os.ReadFile(r)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// newKeycloak lays an instance out in dir, with data of its own.
func newKeycloak(dir, log string) (*Keycloak, error) {
	home := filepath.Join(keycloakDir(), "home")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, part := range []string{"bin", "conf", "lib", "providers", "themes"} {
		if err := os.Symlink(filepath.Join(home, part), filepath.Join(dir, part)); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "data"), os.DirFS(filepath.Join(keycloakDir(), "template"))); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	mgmt, err := FreePort()
	if err != nil {
		return nil, err
	}
	return &Keycloak{Port: port, mgmt: mgmt, dir: dir, log: log}, nil
}

// StartKeycloak starts an instance with its data in dir and waits until it is ready. It comes back at the same port
// after Kill and Restart. more are options of Keycloak's start command, beside those that it needs.
func StartKeycloak(ctx context.Context, dir string, more ...string) (*Keycloak, error) {
	k, err := newKeycloak(dir, filepath.Join(dir, "keycloak.log"))
	if err != nil {
		return nil, err
	}
	k.more = more
	return k, k.Restart(ctx)
}

// Restart starts the instance again, where it has ended, and waits until it is ready.
func (k *Keycloak) Restart(ctx context.Context) error {
	if k.p != nil && !k.p.over() {
		return nil
	}
	return k.start(ctx, append(fastJVM, "-XX:SharedArchiveFile="+filepath.Join(keycloakDir(), "kc.jsa"), "-Xshare:auto"), os.Environ())
}

// RestartForLoad starts the instance with Keycloak's own JVM flags.
func (k *Keycloak) RestartForLoad(ctx context.Context) error {
	return k.start(ctx, loadJVM, os.Environ())
}

func (k *Keycloak) start(ctx context.Context, jvm, env []string, extra ...string) error {
	home := filepath.Join(keycloakDir(), "home")
	args := append([]string{}, jvm...)
	args = append(args, "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US",
		"--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
		"--add-opens=java.base/java.security=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED",
		"-Dkc.home.dir="+k.dir, "-Djboss.server.config.dir="+filepath.Join(k.dir, "conf"),
		"-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
		"-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
		"-cp", filepath.Join(home, "lib", "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
		"start", "--optimized", "--http-enabled=true", "--http-host=127.0.0.1", fmt.Sprint("--http-port=", k.Port),
		"--hostname-strict=false", "--proxy-headers=xforwarded", fmt.Sprint("--http-management-port=", k.mgmt), "--cache=local")
	cmd := exec.Command("java", slices.Concat(args, k.more, extra)...)
	cmd.Env = env
	cmd.Dir = k.dir
	p, err := Start(k.log, cmd)
	if err != nil {
		return err
	}
	k.p = p
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := p.await(ctx, "Keycloak is not ready", func() bool {
		return serves(ctx, fmt.Sprintf("http://127.0.0.1:%d/health/ready", k.mgmt))
	}); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// URL is scheme and host of the instance.
func (k *Keycloak) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", k.Port) }

// PID is the process's id.
func (k *Keycloak) PID() int { return k.p.PID() }

// Kill ends the instance with SIGKILL.
func (k *Keycloak) Kill() { k.p.Kill() }

// Freeze stops the process without ending it: connections are taken and nothing is answered.
func (k *Keycloak) Freeze() error { return k.p.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (k *Keycloak) Thaw() error { return k.p.Signal(syscall.SIGCONT) }

func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out[max(0, len(out)-4000):])
	}
	return nil
}

func sum(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

func unzip(archive, dir string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%s leads out of the archive", f.Name)
		}
		to := filepath.Join(dir, f.Name)
		if f.FileInfo().IsDir() {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, f.Mode().Perm()|0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err := errors.Join(err, in.Close(), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// clientCertificate makes the key of the realm's client "jwtc" and returns its certificate as the realm file wants it.
func clientCertificate(keyFile string) (string, error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "jwtc"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return "", err
	}
	p8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), 0o600); err != nil {
		return "", err
	}
	return strings.TrimSpace(base64.StdEncoding.EncodeToString(der)), nil
}
