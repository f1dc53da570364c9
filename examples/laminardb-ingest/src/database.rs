//! The embedded LaminarDB: a source that accepts rows, and a continuous query over the source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use laminar_core::streaming::StreamingError;
use laminar_db::{LaminarConfig, LaminarDB, UntypedSourceHandle};
use tokio::runtime::Runtime;

const SOURCE: &str = "CREATE SOURCE datagrams (partition BIGINT NOT NULL, value BIGINT NOT NULL)";
const CONTINUOUS_QUERY: &str = "CREATE MATERIALIZED VIEW per_partition AS \
     SELECT partition, COUNT(*) AS datagrams, SUM(value) AS total \
     FROM datagrams GROUP BY partition";
/// Reads the current result of the continuous query.
pub const ANSWER: &str =
    "SELECT partition, datagrams, total FROM per_partition ORDER BY partition LIMIT 1000";

/// The number of bytes that may wait in the database before the database refuses a batch. LaminarDB
/// 0.33 keeps waiting batches in a queue of 2048 entries. If the queue is full, a new batch
/// silently overwrites the oldest batch. The database must therefore refuse batches before the
/// queue is full. Even the smallest batches reach this limit in time: a batch of one row counts as
/// 280 bytes, and 2048 × 280 bytes exceed the limit.
const WAITING_BYTES: usize = 512 << 10;

/// An embedded database in which the continuous query runs.
pub struct Database {
    runtime: Runtime,
    database: Arc<LaminarDB>,
}

impl Database {
    pub fn open() -> Result<Database> {
        let runtime = Runtime::new()?;
        let config =
            LaminarConfig { push_source_max_bytes: WAITING_BYTES, ..LaminarConfig::default() };
        let database = runtime.block_on(async {
            let database = LaminarDB::open_with_config(config)?;
            database.execute(SOURCE).await?;
            database.execute(CONTINUOUS_QUERY).await?;
            // Start the database before any feed pushes rows: the database discards rows that are
            // pushed before its start.
            database.start().await?;
            anyhow::Ok(database)
        })?;
        Ok(Database { runtime, database })
    }

    /// Creates a feed, which accepts rows. Each CPU needs its own feed.
    pub fn feed(&self) -> Result<Feed> {
        let source = self.database.source_untyped("datagrams")?;
        Ok(Feed { source, partitions: Vec::new(), values: Vec::new() })
    }

    /// Returns the current result of the continuous query.
    pub fn answer(&self) -> Result<Vec<RecordBatch>> {
        self.runtime.block_on(async {
            let mut query = self.database.execute(ANSWER).await?.into_query()?;
            let mut rows = query.subscribe_raw()?;
            let mut batches = Vec::new();
            while let Ok(batch) = rows.recv_async().await {
                batches.push(batch);
            }
            Ok(batches)
        })
    }

    pub fn close(self) -> Result<()> {
        Ok(self.runtime.block_on(self.database.shutdown())?)
    }
}

/// Collects rows for the database and pushes them in batches.
pub struct Feed {
    source: UntypedSourceHandle,
    partitions: Vec<i64>,
    values: Vec<i64>,
}

impl Feed {
    /// The number of rows in a batch.
    const BATCH: usize = 512;

    pub fn add(&mut self, partition: u32, value: i64) -> Result<()> {
        self.partitions.push(partition.into());
        self.values.push(value);
        if self.partitions.len() < Self::BATCH { Ok(()) } else { self.flush() }
    }

    /// Pushes the collected rows into the database. While the database is full, this call blocks
    /// the thread of its CPU, and new datagrams wait in that CPU's socket.
    pub fn flush(&mut self) -> Result<()> {
        if self.partitions.is_empty() {
            return Ok(());
        }
        let columns = [&mut self.partitions, &mut self.values];
        let columns = columns.map(|rows| Arc::new(Int64Array::from(std::mem::take(rows))));
        let columns = columns.into_iter().map(|column| column as ArrayRef).collect();
        let batch = RecordBatch::try_new(self.source.schema().clone(), columns)?;
        loop {
            match self.source.push_arrow(batch.clone()) {
                Ok(_) => return Ok(()),
                Err(StreamingError::ChannelFull) => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(anyhow!("the database rejects rows: {error}")),
            }
        }
    }
}

/// For each partition: the number of datagrams, and the sum of their values.
pub type Tally = BTreeMap<i64, (i64, i64)>;

/// Converts the result of the continuous query to a tally.
pub fn tally(answer: &[RecordBatch]) -> Result<Tally> {
    let mut tally = Tally::new();
    for batch in answer {
        let column = |index: usize| {
            let column = batch.column(index).as_primitive_opt::<Int64Type>();
            Ok::<_, anyhow::Error>(
                column.context("a column of the query result does not contain integers")?.values(),
            )
        };
        for ((&partition, &count), &sum) in column(0)?.iter().zip(column(1)?).zip(column(2)?) {
            tally.insert(partition, (count, sum));
        }
    }
    Ok(tally)
}
