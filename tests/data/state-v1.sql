BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE attempt (
	run INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	phase VARCHAR(16) NOT NULL, 
	worker TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	outcome VARCHAR(16), 
	error_class TEXT, 
	message TEXT, 
	CONSTRAINT attempt_pk PRIMARY KEY (run, number), 
	CONSTRAINT attempt_run_fk FOREIGN KEY(run) REFERENCES run (id)
);
INSERT INTO "attempt" VALUES(1,1,'copy','host:1:1','2026-11-23 06:45:49.429000','2026-11-23 06:45:49.440000','done',NULL,NULL);
CREATE TABLE invocation (
	id INTEGER NOT NULL, 
	command TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	version TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	exit_code BIGINT, 
	CONSTRAINT invocation_pk PRIMARY KEY (id)
);
INSERT INTO "invocation" VALUES(1,'migrate inventory','host',1,'1.0.0','2026-11-23 06:45:49.392000','2026-11-23 06:45:49.395000',0);
CREATE TABLE ledger (
	run INTEGER NOT NULL, 
	digest BLOB NOT NULL, 
	part TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	path TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	CONSTRAINT ledger_pk PRIMARY KEY (run, digest), 
	CONSTRAINT ledger_run_fk FOREIGN KEY(run) REFERENCES run (id)
);
INSERT INTO "ledger" VALUES(1,X'F4261ABC13565A6D2202E67F5E93319D','history','skipped','loss','nan',1);
CREATE TABLE part (
	run INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	done_fingerprint TEXT, 
	cursor TEXT, 
	intent DOUBLE, 
	read BIGINT NOT NULL, 
	written BIGINT NOT NULL, 
	skipped BIGINT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT part_pk PRIMARY KEY (run, name), 
	CONSTRAINT part_run_fk FOREIGN KEY(run) REFERENCES run (id)
);
INSERT INTO "part" VALUES(1,'history','v1','{"step": 3}',3.0,3,2,1,0,'2026-11-23 06:45:49.435000');
CREATE TABLE project (
	id INTEGER NOT NULL, 
	entity TEXT NOT NULL, 
	name TEXT NOT NULL, 
	source_service TEXT NOT NULL, 
	url TEXT NOT NULL, 
	destination_name TEXT, 
	name_note TEXT, 
	CONSTRAINT project_pk PRIMARY KEY (id), 
	CONSTRAINT project_source UNIQUE (source_service, entity, name)
);
INSERT INTO "project" VALUES(1,'entity','project','wandb','https://wandb.ai/entity/project','project',NULL);
CREATE TABLE run (
	id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	source_state TEXT NOT NULL, 
	created_at DATETIME, 
	heartbeat_at DATETIME, 
	history_rows BIGINT, 
	size_hint BIGINT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	copied_fingerprint TEXT, 
	location JSON, 
	fork_run_id TEXT, 
	fork_step DOUBLE, 
	tags JSON, 
	seen BIGINT NOT NULL, 
	phase VARCHAR(16) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT, 
	claimed_by TEXT, 
	lease_until DATETIME, 
	attempt BIGINT NOT NULL, 
	failures BIGINT NOT NULL, 
	silent_attempts BIGINT NOT NULL, 
	not_before DATETIME, 
	position TEXT, 
	error_class TEXT, 
	error_message TEXT, 
	points_read BIGINT NOT NULL, 
	points_written BIGINT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	part TEXT, 
	active_at DATETIME, 
	started_at DATETIME, 
	finished_at DATETIME, 
	CONSTRAINT run_pk PRIMARY KEY (id), 
	CONSTRAINT run_source UNIQUE (project_id, run_id), 
	CONSTRAINT run_project_id_fk FOREIGN KEY(project_id) REFERENCES project (id), 
	CONSTRAINT run_claimed_by_fk FOREIGN KEY(claimed_by) REFERENCES worker (id)
);
INSERT INTO "run" VALUES(1,1,'finished-run','finished-run','finished','2024-01-02 03:04:05.000000',NULL,NULL,9,'v1','v1',NULL,NULL,NULL,'["t"]',1,'copy','done',NULL,NULL,NULL,1,0,0,NULL,'p1',NULL,NULL,3,2,0,NULL,'2026-11-23 06:45:49.434000','2026-11-23 06:45:49.425000','2026-11-23 06:45:49.440000');
INSERT INTO "run" VALUES(2,1,'pending-run','pending-run','finished','2024-01-02 03:04:05.000000',NULL,NULL,1,'v1',NULL,NULL,NULL,NULL,'["t"]',1,'copy','pending',NULL,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL);
CREATE TABLE service (
	name TEXT NOT NULL, 
	not_before DATETIME NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT service_pk PRIMARY KEY (name)
);
INSERT INTO "service" VALUES('wandb','2026-11-23 06:45:50.444000','429');
CREATE TABLE setting (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT setting_pk PRIMARY KEY ("key")
);
INSERT INTO "setting" VALUES('destination','neptune');
CREATE TABLE worker (
	id TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	pid_started DOUBLE NOT NULL, 
	invocation_id INTEGER, 
	started_at DATETIME NOT NULL, 
	heartbeat_at DATETIME NOT NULL, 
	stopped_at DATETIME, 
	CONSTRAINT worker_pk PRIMARY KEY (id), 
	CONSTRAINT worker_invocation_id_fk FOREIGN KEY(invocation_id) REFERENCES invocation (id)
);
INSERT INTO "worker" VALUES('host:1:1','host',1,1.0,1,'2026-11-23 06:45:49.412000','2026-11-23 06:45:49.412000','2026-11-23 06:45:49.443000');
CREATE INDEX worker_alive ON worker (host) WHERE stopped_at IS NULL;
CREATE INDEX run_by_run_id ON run (run_id);
CREATE INDEX run_pending ON run (phase, silent_attempts, size_hint DESC, id) WHERE status = 'pending';
CREATE INDEX run_pending_project ON run (project_id, phase, silent_attempts, size_hint DESC, id) WHERE status = 'pending';
CREATE INDEX run_running ON run (phase, lease_until) WHERE status = 'running';
CREATE INDEX run_claimed_by ON run (claimed_by) WHERE claimed_by IS NOT NULL;
CREATE INDEX run_failed ON run (error_class, id) WHERE status = 'failed';
CREATE INDEX run_reason ON run (status) WHERE reason IS NOT NULL;
CREATE INDEX run_progress ON run (project_id, phase, status, size_hint, points_read, points_written, size_bytes);
COMMIT;
